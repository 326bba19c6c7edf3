-- Takes a lease. KEYS: leases, counters. ARGV: instance, ttl in ms, channel of the users, "r" to tell there that an instance lost its data or "",
--   what an event begins with, and the channels on which it is told that what was told before may not be true: when the instance lost its data,
--   or when there is no other, as then nobody is here, whoever was.
-- Returns the instances whose leases have ended, up to 32.
-- First the message: who may not publish must leave no lease behind, as a script that fails has done all up to there.
redis.call('PUBLISH', ARGV[3], ARGV[4])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
-- The half says that what the instance has is not written yet; its first heartbeat, which comes behind all of it, rounds the lease.
local empty = redis.call('EXISTS', KEYS[1]) == 0
if empty or ARGV[4] ~= '' then
	for i = 6, #ARGV do
		redis.pcall('PUBLISH', ARGV[i], string.format('%s,"event":"reset"%s,"ts":%.0f}', ARGV[5], empty and ',"empty":true' or '', now))
	end
end
redis.call('ZADD', KEYS[1], now + ARGV[2] + 0.5, ARGV[1])
redis.call('HSETNX', KEYS[2], ARGV[1], 1)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 32)
