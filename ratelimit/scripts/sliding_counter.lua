-- Counts events in buckets of a twentieth of the window, and the whole oldest bucket: never above the limit in any window.
-- KEYS[1]: the number of the newest bucket and 21 counts, oldest first, packed in a string
-- ARGV: events, microseconds of a bucket
-- Returns allowed (1 or 0), remaining, microseconds until the limit is free, microseconds until more remains
local events, width = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local bucket = math.floor(now / width)
local size = 21
local format = '<dI4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4'

local packed = redis.call('GET', KEYS[1])
local state, shift
if packed then
  state = {struct.unpack(format, packed)}
  -- When the clock was set back, the newest bucket becomes this one: late by the step at most, never too soon.
  shift = bucket - state[1]
else
  state, shift = {bucket}, size
end
local set_back = shift < 0
shift = math.max(shift, 0)

local sum, oldest, newest = 0, nil, nil
for i = 1, size do
  local count = i + shift <= size and state[1 + i + shift] or 0
  state[1 + i] = count
  if count > 0 then
    sum = sum + count
    oldest = oldest or i
    newest = i
  end
end
local allowed = sum < events
if allowed then
  state[1 + size] = state[1 + size] + 1
  sum = sum + 1
  oldest, newest = oldest or size, size
end

local reset, more = (bucket + newest) * width - now, (bucket + oldest) * width - now
if allowed or set_back then
  state[1] = bucket
  redis.call('SET', KEYS[1], struct.pack(format, unpack(state)), 'PX', math.ceil(reset / 1000) + 1)
end
return {allowed and 1 or 0, events - sum, reset, more}
