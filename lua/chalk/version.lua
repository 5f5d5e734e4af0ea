-- The version of chalk, which CMakeLists.txt and the manual page name too.

return "0.1.0"
