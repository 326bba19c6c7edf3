-- Changes connections of one instance in some rooms, and tells every instance.
-- KEYS: counters, rooms of the instance, all rooms, then for each room: members, users, sequence, who has left.
-- ARGV: instance, what a room's channel begins with, the channel of events or "", what events begin with, then for each room: room, number
--   of the batch, 1 if the instance stays in the room, how many changes, and these: "+", connection, content: its version is the sequence that
--   the batch gets, if it is news;
--   "0", connection, content: version 0, if it is news; "=", connection, content, version, since; or "-", connection, reason.
--   Content is user \n status \n device \n state.
-- Returns the write counter (0: the instance is gone), and for each room its sequence, and 1 if anything changed.
local iid = ARGV[1]
local w = redis.call('HINCRBY', KEYS[1], iid, '1')
if w == 1 then
	redis.call('HDEL', KEYS[1], iid)
	return {0}
end

-- Lua writes large numbers with an exponent, and Redis takes its time to: the times are put together from their digits.
local t = redis.call('TIME')
local us = string.sub('00000' .. t[2], -6)
local now = t[1] .. string.sub(us, 1, 3)

local events = ARGV[3]
local function tell(event, room, seq, more)
	-- That nobody may hear of it must not keep it from happening.
	redis.pcall('PUBLISH', events, string.format('%s,"event":"%s","room":%s%s,"pseq":%s,"ts":%s}', ARGV[4], event, cjson.encode(room), more, seq, now))
end

local reply = {w}
local key, arg = 4, 5
while key <= #KEYS do
	local members, users, sequence, gone = KEYS[key], KEYS[key + 1], KEYS[key + 2], KEYS[key + 3]
	local room, changes = ARGV[arg], ARGV[arg + 3]
	local stays, batch = ARGV[arg + 2] == '1', ARGV[arg + 1]
	key, arg = key + 4, arg + 4

	-- A sequence starts at the time in microseconds, so that it is higher than that of any room that was here before.
	local prev = redis.call('HGET', sequence, 'p')
	local seq = t[1] .. us
	if prev then
		local n = prev + 1
		seq = string.format('%d%06d', math.floor(n / 1000000), n % 1000000)
	end
	local out, entered, left, departed = {}, false, false, {}
	for _ = 1, tonumber(changes) do
		local op, id = ARGV[arg], iid .. '.' .. ARGV[arg + 1]
		if op == '-' then
			local reason = ARGV[arg + 2]
			local old = redis.call('HGET', members, id)
			if old then
				local user = string.match(old, '^%d+\n%d+\n([^\n]*)')
				redis.call('HDEL', members, id)
				if redis.call('HINCRBY', users, user, '-1') <= 0 then
					redis.call('HDEL', users, user)
					local state = string.match(old, '^%d+\n%d+\n[^\n]*\n[^\n]*\n[^\n]*\n(.*)$')
					departed[#departed + 1] = now .. ' ' .. user .. '\t' .. state
					if events ~= '' then
						local n = redis.call('HLEN', users)
						tell('leave', room, seq, string.format(',"user":%s,"reason":"%s","count":%d', cjson.encode(user), reason, n))
						if n == 0 then
							tell('vacated', room, seq, '')
						end
					end
				end
				left = true
				out[#out + 1] = '-' .. #id .. ' ' .. #reason .. '\n' .. id .. reason
			end
			arg = arg + 3
		else
			local content, ver, since = ARGV[arg + 2], seq, now
			arg = arg + 3
			if op == '0' then
				ver = '0'
			elseif op == '=' then
				ver, since = ARGV[arg], ARGV[arg + 1]
				arg = arg + 2
			end
			local value = ver .. '\n' .. since .. '\n' .. content
			local news = redis.call('HSETNX', members, id, value) == 1
			if news then
				local user = string.match(content, '^[^\n]*')
				if redis.call('HINCRBY', users, user, '1') == 1 and events ~= '' then
					local n = redis.call('HLEN', users)
					local status, device, state = string.match(content, '^[^\n]*\n([^\n]*)\n([^\n]*)\n(.*)$')
					local restored = op == '=' and ',"restored":true' or ''
					if n == 1 then
						tell('occupied', room, seq, restored)
					end
					tell('join', room, seq, string.format(',"user":%s,"status":%s,"state":%s,"device":%s,"since":%s,"count":%d%s',
						cjson.encode(user), cjson.encode(status), state, cjson.encode(device), since, n, restored))
				end
				entered = true
			else
				local was, old = string.match(redis.call('HGET', members, id), '^%d+\n(%d+)\n(.*)$')
				if old ~= content then
					value = ver .. '\n' .. was .. '\n' .. content
					redis.call('HSET', members, id, value)
					news = true
				end
			end
			if news then
				out[#out + 1] = '+' .. #id .. ' ' .. #value .. '\n' .. id .. value
			end
		end
	end

	if not stays then
		redis.call('SREM', KEYS[2], room)
	elseif entered and redis.call('SADD', KEYS[2], room) == 1 then
		-- Only the first of an instance can be the first of all: whoever else enters finds this done.
		redis.call('PERSIST', sequence)
		redis.call('ZADD', KEYS[3], '0', room)
	end
	if #out == 0 then
		reply[#reply + 1] = tonumber(prev or 0)
		reply[#reply + 1] = 0
	else
		redis.call('HSET', sequence, 'p', seq)
		if #departed > 0 then
			redis.call('LPUSH', gone, unpack(departed))
			redis.call('LTRIM', gone, '0', '49')
			redis.call('EXPIRE', gone, '3600')
		end
		if left and redis.call('EXISTS', members) == 0 then
			redis.call('EXPIRE', sequence, 3600)
			redis.call('ZREM', KEYS[3], room)
		end
		redis.call('PUBLISH', ARGV[2] .. room, 'p' .. (prev or '0') .. ' ' .. seq .. ' ' .. batch .. '\n' .. table.concat(out))
		reply[#reply + 1] = tonumber(seq)
		reply[#reply + 1] = 1
	end
end
return reply
