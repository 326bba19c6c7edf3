-- Keeps an instance whose lease has ended from writing ever again. KEYS: leases, counters. ARGV: instance.
-- Returns 1, or 0 when its lease runs or it was reaped to the end.
local lease = redis.call('ZSCORE', KEYS[1], ARGV[1])
local t = redis.call('TIME')
if not lease or tonumber(lease) > t[1] * 1000 + math.floor(t[2] / 1000) then
	return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
