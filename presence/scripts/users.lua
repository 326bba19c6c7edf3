-- Puts connections of one instance online and takes them offline.
-- KEYS: counters, users of the instance, online, seen, then the user of each change.
-- ARGV: instance, the channel of events or "", what events begin with, then for each change: "+", connection, user, device, since when the
--   connection has been here under a former name or 0; "~", the same, version and \n and the explicit status that the instance knows; or
--   "-", connection, user, 1 if the user has another connection on the instance.
-- Returns the write counter (0: the instance is gone), and for each change what "+" and "~" want to know: since when the user is online, \n, and
--   the explicit status behind its version and \n if there is one; "" for "-".
local iid = ARGV[1]
local w = redis.call('HINCRBY', KEYS[1], iid, '1')
if w == 1 then
	redis.call('HDEL', KEYS[1], iid)
	return {0}
end
local t = redis.call('TIME')
local now = t[1] .. string.sub('00000' .. t[2], -6, -4)
local events = ARGV[2]
local function tell(event, user, more)
	-- That nobody may hear of it must not keep it from happening.
	redis.pcall('PUBLISH', events, string.format('%s,"event":"%s","user":%s%s,"ts":%s}', ARGV[3], event, cjson.encode(user), more, now))
end
local reply = {w}
local arg = 4
for i = 5, #KEYS do
	local key, op, id, user, more = KEYS[i], ARGV[arg], iid .. '.' .. ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
	local known = ''
	arg = arg + 4
	if op == '-' then
		redis.call('HDEL', key, id)
		if more == '0' then
			redis.call('SREM', KEYS[2], user)
		end
		if redis.call('HLEN', key) == redis.call('HEXISTS', key, '@') + redis.call('HEXISTS', key, '~') then
			redis.call('DEL', key)
			redis.call('ZREM', KEYS[4], user)
			if redis.call('ZREM', KEYS[3], user) == 1 and events ~= '' then
				tell('offline', user, '')
			end
		end
	else
		local since = ARGV[arg]
		arg = arg + 1
		redis.call('HSET', key, id, more)
		redis.call('SADD', KEYS[2], user)
		local came = since == '0' and now or since
		local first = redis.call('HSETNX', key, '@', came) == 1
		if first then
			if events ~= '' then
				tell('online', user, string.format(',"device":%s%s', cjson.encode(more), since ~= '0' and ',"restored":true' or ''))
			end
			-- One score for all, so that the set can be read in the order of the ids.
			redis.call('ZADD', KEYS[3], '0', user)
		else
			came = redis.call('HGET', key, '@')
		end
		redis.call('ZADD', KEYS[4], now, user)
		if op == '~' then
			redis.call('HSETNX', key, '~', ARGV[arg])
			arg = arg + 1
		end
		known = came .. '\n'
		if not first or op == '~' then
			known = known .. (redis.call('HGET', key, '~') or '')
		end
	end
	reply[#reply + 1] = known
end
return reply
