-- One kind of request against the JSON gateway, its key or lease drawn from `count` of them:
--   wrk … -s requests.lua URL -- put|range|serializable|txn|keepalive COUNT
-- Keys have 9 bytes and values 15. All requests of a kind have the same length, so that a draw is one substitution.
local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local function base64(text) -- for lengths divisible by three: no padding
  return (text:gsub("...", function(three)
    local a, b, c = three:byte(1, 3)
    local bits = a * 65536 + b * 256 + c
    local out = {}
    for shift = 18, 0, -6 do
      local digit = math.floor(bits / 2 ^ shift) % 64
      out[#out + 1] = alphabet:sub(digit + 1, digit + 1)
    end
    return table.concat(out)
  end))
end

local function key(number) return base64(string.format("key%06d", number)) end
local function lease(number) return tostring(1000000 + number) end

local value = base64("fifteen--bytes!")
local put = '{"key":"@","value":"' .. value .. '"}'
local kinds = {
  put = { "/v3/kv/put", put, key },
  range = { "/v3/kv/range", '{"key":"@"}', key },
  serializable = { "/v3/kv/range", '{"key":"@","serializable":true}', key },
  txn = { "/v3/kv/txn", '{"compare":[{"key":"@","target":"VALUE","result":"EQUAL","value":"' .. value .. '"}],'
    .. '"success":[{"requestPut":' .. put .. '}],"failure":[{"requestRange":{"key":"@"}}]}', key },
  keepalive = { "/v3/lease/keepalive", '{"ID":"@"}', lease },
}

init = function(args)
  local path, body, draw = unpack(kinds[args[1]])
  local count = tonumber(args[2])
  local sized = wrk.format("POST", path, { ["Content-Type"] = "application/json" }, (body:gsub("@", draw(0))))
  local head = sized:sub(1, select(2, sized:find("\r\n\r\n", 1, true)))
  request = function()
    return head .. body:gsub("@", draw(math.random(0, count - 1)))
  end
end

done = function(summary, latency, _)
  local errors = summary.errors
  print(string.format("RESULT %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
