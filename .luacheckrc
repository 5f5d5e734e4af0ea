std = "luajit"
max_line_length = 120
self = false
exclude_files = { "build*", ".luarocks", "lua_modules" }

files["*.rockspec"] = { std = "rockspec" }
files["spec"] = { std = "luajit+busted" }
files["lua/resty"] = { std = "luajit+ngx_lua" }
