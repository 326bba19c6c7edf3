-- Takes a lease. KEYS: leases, counters. ARGV: instance, ttl in ms, channel to tell that an instance lost its data or "".
local t = redis.call('TIME')
redis.call('ZADD', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[2], ARGV[1])
redis.call('HSETNX', KEYS[2], ARGV[1], 1)
if ARGV[3] ~= '' then
	redis.call('PUBLISH', ARGV[3], 'r')
end
return {1}
