-- The version of chalk. CMakeLists.txt and the manual page contain it too.

return "0.1.0"
