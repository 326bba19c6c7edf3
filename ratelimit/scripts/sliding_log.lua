-- Remembers when each event happened: exact.
-- KEYS[1]: a sorted set with one member an event, its time in microseconds as the score
-- ARGV: events, microseconds of the window
-- Returns allowed (1 or 0), remaining, microseconds until the limit is free, microseconds until more remains
local events, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local count = redis.call('ZCARD', KEYS[1])
local allowed = count < events
if allowed then
  -- Two events may share a microsecond, but not a member.
  local member = now
  while redis.call('ZADD', KEYS[1], 'NX', now, string.format('%.0f', member)) == 0 do
    member = member + 1
  end
  redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000) + 1)
  count = count + 1
end

local oldest = tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2])
local newest = tonumber(redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2])
if newest > now then
  -- The clock was set back: what lies in the future happened now, so that nobody waits longer than a window.
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')) do
    redis.call('ZADD', KEYS[1], now, member)
  end
  redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000) + 1)
  oldest, newest = math.min(oldest, now), now
end
return {allowed and 1 or 0, events - count, newest + window - now, oldest + window - now}
