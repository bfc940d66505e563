-- A put of a 9-byte key and a 15-byte value, the key drawn from a hundred thousand.
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

local value = base64("fifteen--bytes!")

request = function()
  local key = base64(string.format("key%06d", math.random(0, 99999)))
  return wrk.format("POST", "/v3/kv/put", { ["Content-Type"] = "application/json" },
    '{"key":"' .. key .. '","value":"' .. value .. '"}')
end

done = function(summary, latency, _)
  local errors = summary.errors
  print(string.format("RESULT %d %d %d %d %d", summary.requests, summary.duration, latency:percentile(50),
    latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
