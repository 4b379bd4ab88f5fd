-- Many transactions a request, over all accounts. The bodies are made once; the keys are new.
-- Arguments: a name for the keys, the number of accounts, the bearer token, lines a request.
local BODIES = 8
local head, run
local bodies = {}
local sent = 0

function init(args)
  run = args[1]
  local accounts, lines = tonumber(args[2]), tonumber(args[4])
  head = "POST /transactions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " .. args[3] ..
    "\r\nContent-Type: application/json\r\n"
  math.randomseed(20261124)
  for number = 1, BODIES do
    local parts = {}
    for line = 1, lines do
      parts[line] = '{"accountId":"bench-' .. math.random(accounts) ..
        '","description":"Coffee beans","type":"INCOME","value":10.50}'
    end
    bodies[number] = "[" .. table.concat(parts, ",") .. "]"
  end
end

function request()
  sent = sent + 1
  local body = bodies[sent % BODIES + 1]
  return head .. "Idempotency-Key: \"" .. run .. "-" .. sent .. "\"\r\nContent-Length: " .. #body ..
    "\r\n\r\n" .. body
end

dofile(debug.getinfo(1, "S").source:match("@(.*/)") .. "result.lua")
