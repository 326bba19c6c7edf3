-- The generic cell rate algorithm as a continuous-state leaky bucket (ITU-T I.371, annex A).
-- KEYS[1]: how far the bucket is filled, in nanoseconds, and at which microsecond, packed in a string
-- ARGV: events, nanoseconds that one event fills
-- Returns allowed (1 or 0), remaining, microseconds until the limit is free, microseconds until more remains
local events, interval = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local level = 0
local set_back = false
local packed = redis.call('GET', KEYS[1])
if packed then
  local filled, at = struct.unpack('<dd', packed)
  -- When the clock was set back, no time has passed.
  set_back = at > now
  level = math.max(0, filled - math.max(0, now - at) * 1000)
end

local allowed = level <= (events - 1) * interval
if allowed then
  level = level + interval
end

local remaining = math.floor((events * interval - level) / interval)
local reset = math.ceil(level / 1000)
local more = math.ceil((level - (events - remaining - 1) * interval) / 1000)
if allowed or set_back then
  redis.call('SET', KEYS[1], struct.pack('<dd', level, now), 'PX', math.ceil(reset / 1000) + 1)
end
return {allowed and 1 or 0, remaining, reset, more}
