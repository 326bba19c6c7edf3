-- Puts connections of one instance online and takes them offline.
-- KEYS: counters, users of the instance, online, seen, then the user of each change.
-- ARGV: instance, then for each change: "+", connection, user, device; "~", connection, user, device, version and \n and the explicit
--   status that the instance knows; or "-", connection, user, 1 if the user has another connection on the instance.
-- Returns the write counter (0: the instance is gone), and for each change what "+" and "~" want to know: the user's explicit status
--   behind its version and \n, or "".
local iid = ARGV[1]
local w = redis.call('HINCRBY', KEYS[1], iid, '1')
if w == 1 then
	redis.call('HDEL', KEYS[1], iid)
	return {0}
end
local t = redis.call('TIME')
local now = t[1] .. string.sub('00000' .. t[2], -6, -4)
local reply = {w}
local arg = 2
for i = 5, #KEYS do
	local key, op, id, user, more = KEYS[i], ARGV[arg], iid .. '.' .. ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
	local status = ''
	arg = arg + 4
	if op == '-' then
		redis.call('HDEL', key, id)
		if more == '0' then
			redis.call('SREM', KEYS[2], user)
		end
		if redis.call('HLEN', key) == redis.call('HEXISTS', key, '@') + redis.call('HEXISTS', key, '~') then
			redis.call('DEL', key)
			redis.call('ZREM', KEYS[3], user)
			redis.call('ZREM', KEYS[4], user)
		end
	else
		redis.call('HSET', key, id, more)
		redis.call('SADD', KEYS[2], user)
		local first = redis.call('HSETNX', key, '@', now) == 1
		if first then
			-- One score for all, so that the set can be read in the order of the ids.
			redis.call('ZADD', KEYS[3], '0', user)
		end
		redis.call('ZADD', KEYS[4], now, user)
		if op == '~' then
			redis.call('HSETNX', key, '~', ARGV[arg])
			arg = arg + 1
		end
		if not first or op == '~' then
			status = redis.call('HGET', key, '~') or ''
		end
	end
	reply[#reply + 1] = status
end
return reply
