-- One transaction a request, each with an idempotency key of its own, spread over the accounts.
-- Arguments: a name for the keys, the number of accounts, the bearer token.
local head, accounts, run
local sent = 0

function init(args)
  run, accounts = args[1], tonumber(args[2])
  head = "POST /transactions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " .. args[3] ..
    "\r\nContent-Type: application/json\r\n"
  math.randomseed(20261124)
end

function request()
  sent = sent + 1
  local body = '{"accountId":"bench-' .. math.random(accounts) ..
    '","description":"Coffee beans","type":"INCOME","value":10.50}'
  return head .. "Idempotency-Key: \"" .. run .. "-" .. sent .. "\"\r\nContent-Length: " .. #body ..
    "\r\n\r\n" .. body
end

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "result.lua")
