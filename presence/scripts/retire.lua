-- Ends the writing of an instance for good and gives its members so much longer.
-- KEYS: leases, counters, reasons. ARGV: instance, hold in ms, reason of the leaves to come.
-- Returns the last write counter, 0 when it was gone.
local w = redis.call('HGET', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
	local t = redis.call('TIME')
	redis.call('ZADD', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2], ARGV[1])
	redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
end
return {tonumber(w or 0)}
