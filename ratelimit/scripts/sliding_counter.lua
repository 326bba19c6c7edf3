-- Counts events in buckets of a twentieth of the window, and the whole oldest bucket: never above the limit in any window.
-- KEYS[1]: the number of the newest bucket and 21 counts, oldest first, packed in a string
-- ARGV: events, microseconds of a bucket
-- Returns allowed (1 or 0), remaining, microseconds until the limit is free, microseconds until more remains
local events, width = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local bucket = math.floor(now / width)
local size = 21
local format = '<d' .. string.rep('I4', size)

local counts = {}
for i = 1, size do
  counts[i] = 0
end
local set_back = false
local packed = redis.call('GET', KEYS[1])
if packed then
  local old = {struct.unpack(format, packed)}
  -- When the clock was set back, the newest bucket becomes this one: late by the step at most, never too soon.
  set_back = old[1] > bucket
  local shift = math.max(0, math.min(bucket - old[1], size))
  for i = 1, size - shift do
    counts[i] = old[1 + i + shift]
  end
end

local sum = 0
for i = 1, size do
  sum = sum + counts[i]
end
local allowed = sum < events
if allowed then
  counts[size] = counts[size] + 1
  sum = sum + 1
end

local oldest, newest
for i = 1, size do
  if counts[i] > 0 then
    oldest = oldest or i
    newest = i
  end
end
local reset, more = (bucket + newest) * width - now, (bucket + oldest) * width - now
if allowed or set_back then
  redis.call('SET', KEYS[1], struct.pack(format, bucket, unpack(counts)), 'PX', math.ceil(reset / 1000) + 1)
end
return {allowed and 1 or 0, events - sum, reset, more}
