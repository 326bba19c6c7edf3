-- Renews a lease. KEYS: leases, counters. ARGV: instance, ttl in ms.
-- Returns the write counter, 0 when the instance is gone, then up to 32 instances whose leases have ended.
local w = redis.call('HGET', KEYS[2], ARGV[1])
if not w then
	return {0}
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return {tonumber(w), unpack(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 32))}
