-- Changes connections of one instance in one room, and tells every instance.
-- KEYS: counters, rooms of the instance, members, users, sequence.
-- ARGV: instance, channel, room, number of the batch, 1 if the instance stays in the room,
--   then for each change: "+", connection, version or "", since or "", content; or "-", connection, reason, "", "".
-- The version defaults to the sequence that the batch gets, since to the time. Content is user \n status \n device \n state.
-- Returns the write counter (0: the instance is gone), the room's sequence, 1 if anything changed.
local iid = ARGV[1]
local w = redis.call('HINCRBY', KEYS[1], iid, 1)
if w == 1 then
	redis.call('HDEL', KEYS[1], iid)
	return {0}
end

local t = redis.call('TIME')
-- A sequence starts at the time in microseconds, so that it is higher than that of any room that was here before.
local prev = tonumber(redis.call('HGET', KEYS[5], 'p') or 0)
local seq = prev > 0 and prev + 1 or t[1] * 1000000 + t[2]
-- Lua writes large numbers with an exponent.
local seqtext = string.format('%.0f', seq)
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local out, entered, left = {}, false, false

for i = 6, #ARGV, 5 do
	local id = iid .. '.' .. ARGV[i + 1]
	local old = redis.call('HGET', KEYS[3], id)
	local since, content
	if old then
		since, content = string.match(old, '^%d+\n(%d+)\n(.*)$')
	end
	if ARGV[i] == '+' then
		if content ~= ARGV[i + 4] then
			local ver = ARGV[i + 2] ~= '' and ARGV[i + 2] or seqtext
			since = since or (ARGV[i + 3] ~= '' and ARGV[i + 3] or now)
			local value = ver .. '\n' .. since .. '\n' .. ARGV[i + 4]
			redis.call('HSET', KEYS[3], id, value)
			if not old then
				redis.call('HINCRBY', KEYS[4], string.match(ARGV[i + 4], '^[^\n]*'), 1)
				entered = true
			end
			out[#out + 1] = '+' .. #id .. ' ' .. #value .. '\n' .. id .. value
		end
	elseif old then
		local user = string.match(content, '^[^\n]*')
		redis.call('HDEL', KEYS[3], id)
		if redis.call('HINCRBY', KEYS[4], user, -1) <= 0 then
			redis.call('HDEL', KEYS[4], user)
		end
		left = true
		out[#out + 1] = '-' .. #id .. ' ' .. #ARGV[i + 2] .. '\n' .. id .. ARGV[i + 2]
	end
end

if ARGV[5] == '0' then
	redis.call('SREM', KEYS[2], ARGV[3])
elseif entered then
	redis.call('SADD', KEYS[2], ARGV[3])
end
if #out == 0 then
	return {w, prev, 0}
end
redis.call('HSET', KEYS[5], 'p', seqtext)
if left and redis.call('EXISTS', KEYS[3]) == 0 then
	redis.call('EXPIRE', KEYS[5], 3600)
elseif entered then
	redis.call('PERSIST', KEYS[5])
end
redis.call('PUBLISH', ARGV[2], 'p' .. string.format('%.0f', prev) .. ' ' .. seqtext .. ' ' .. ARGV[4] .. '\n' .. table.concat(out))
return {w, seq, 1}
