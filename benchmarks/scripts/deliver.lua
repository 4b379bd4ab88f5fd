-- Sends each request of a file once, as it stands there, and stops at the last answer. wrk asks for
-- one request more before it starts, to check it: so the first one is sent last.
-- Arguments: the file. Each request in it follows its length in eight digits.
local requests = {}
local sent, answered, refused = 0, 0, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local length = file:read(8)
    if not length then break end
    requests[#requests + 1] = file:read(tonumber(length))
  end
  file:close()
end

function request()
  sent = sent + 1
  -- Beyond the last one, until all answers are there, the first ones come again.
  return requests[(sent - 1) % #requests + 1]
end

function response(status)
  answered = answered + 1
  if status >= 300 then
    refused = refused + 1
  end
  if answered == #requests then
    -- wrk itself would sleep to the end of its time.
    io.write(string.format('RESULT {"requests":%d,"not_answered":0,"not_2xx":%d}\n',
      answered, refused))
    io.flush()
    os.exit(0)
  end
end
