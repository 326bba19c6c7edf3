-- Puts back decisions that were lost, unless later ones are there, and tells every instance of those that were. KEYS: the decisions.
-- ARGV: channel, then fields with decisions.
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local put, out = {}, {}
for i = 2, #ARGV, 2 do
	local field, value = ARGV[i], ARGV[i + 1]
	local old = redis.call('HGET', KEYS[1], field)
	local stamp = old and string.match(old, '^%d+')
	if not stamp or tonumber(string.match(value, '^%d+')) > tonumber(stamp) then
		put[#put + 1], put[#put + 2] = field, value
		out[#out + 1] = '\n' .. field .. '\n' .. value
	end
end
if #put == 0 then
	return 0
end
local prev = redis.call('HGET', KEYS[1], 'v') or '0'
local version = string.format('%.0f', math.max(now, prev + 1))
redis.call('HSET', KEYS[1], 'v', version, unpack(put))
redis.call('PUBLISH', ARGV[1], 'b' .. prev .. ' ' .. version .. ' ' .. string.format('%.0f', now) .. table.concat(out))
return #put / 2
