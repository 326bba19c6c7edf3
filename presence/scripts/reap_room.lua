-- Takes some connections of a fenced instance out of a room, and tells every instance.
-- KEYS: counters, reasons, rooms of the dead, members, users, sequence, who has left, all rooms.
-- ARGV: dead, room, channel, cursor, the channel of events or "", what events begin with.
-- Returns the next cursor, "0" at the end, "" when the instance isn't fenced.
local dead = ARGV[1]
if redis.call('HEXISTS', KEYS[1], dead) == 1 then
	return ''
end
local reason = redis.call('HGET', KEYS[2], dead) or 'node'
local scan = redis.call('HSCAN', KEYS[4], ARGV[4], 'MATCH', dead .. '.*', 'COUNT', 500)
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
local out, gone, departed = {}, {}, {}
for i = 1, #scan[2], 2 do
	local id, user = scan[2][i], string.match(scan[2][i + 1], '^%d+\n%d+\n([^\n]*)')
	local state = string.match(scan[2][i + 1], '^%d+\n%d+\n[^\n]*\n[^\n]*\n[^\n]*\n(.*)$')
	if redis.call('HDEL', KEYS[4], id) == 1 then
		if redis.call('HINCRBY', KEYS[5], user, -1) <= 0 then
			redis.call('HDEL', KEYS[5], user)
			departed[#departed + 1] = now .. ' ' .. user .. '\t' .. state
			if ARGV[5] ~= '' then
				gone[#gone + 1] = string.format(',"event":"leave","room":%s,"user":%s,"reason":"%s","count":%d',
					cjson.encode(ARGV[2]), cjson.encode(user), reason, redis.call('HLEN', KEYS[5]))
			end
		end
		out[#out + 1] = '-' .. #id .. ' ' .. #reason .. '\n' .. id .. reason
	end
end
if #out > 0 then
	local prev = tonumber(redis.call('HGET', KEYS[6], 'p') or 0)
	local seq = string.format('%.0f', prev > 0 and prev + 1 or t[1] * 1000000 + t[2])
	redis.call('HSET', KEYS[6], 'p', seq)
	if #departed > 0 then
		redis.call('LPUSH', KEYS[7], unpack(departed, math.max(1, #departed - 49)))
		redis.call('LTRIM', KEYS[7], '0', '49')
		redis.call('EXPIRE', KEYS[7], '3600')
	end
	if redis.call('EXISTS', KEYS[4]) == 0 then
		redis.call('EXPIRE', KEYS[6], 3600)
		redis.call('ZREM', KEYS[8], ARGV[2])
	end
	if #gone > 0 and redis.call('EXISTS', KEYS[5]) == 0 then
		gone[#gone + 1] = string.format(',"event":"vacated","room":%s', cjson.encode(ARGV[2]))
	end
	for _, event in ipairs(gone) do
		redis.pcall('PUBLISH', ARGV[5], string.format('%s%s,"pseq":%s,"ts":%s}', ARGV[6], event, seq, now))
	end
	redis.call('PUBLISH', ARGV[3], 'p' .. string.format('%.0f', prev) .. ' ' .. seq .. ' 0\n' .. table.concat(out))
end
if scan[1] == '0' then
	redis.call('SREM', KEYS[3], ARGV[2])
end
return scan[1]
