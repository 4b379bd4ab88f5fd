-- One balance a request, over all accounts. Arguments: the number of accounts, the bearer token.
local tail, accounts

function init(args)
  accounts = tonumber(args[1])
  tail = " HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " .. args[2] .. "\r\n\r\n"
  math.randomseed(20261124)
end

function request()
  return "GET /balances?accountId=bench-" .. math.random(accounts) .. tail
end

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "result.lua")
