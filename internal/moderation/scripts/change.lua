-- Writes one decision, unless a later one is there, and tells every instance. KEYS: the decisions.
-- ARGV: channel; field; how long ago it was decided, in microseconds, "" for right now; who has decided, and its number there; what: the
--   milliseconds that a ban still lasts, the numbers of a slow mode, or "0": lifted; "1" if that is to be noted also where there is nothing.
-- Returns the time in microseconds, and the decision that holds now, or "".
-- A decision is: when it was made (microseconds, later than the one before it), who, number, until when it must be remembered
--   (milliseconds), and what: when a ban ends (milliseconds), the numbers of a slow mode, or 0.
local key, field = KEYS[1], ARGV[2]
local function text(n) return string.format('%.0f', n) end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local old = redis.call('HGET', key, field)
local stamp, keep = 0, 0
if old then
	local at, author, n, over = string.match(old, '^(%d+) (%S+) (%d+) (%d+) ')
	if at then
		stamp, keep = tonumber(at), tonumber(over)
		local later = ARGV[3] == '' or now - ARGV[3] > stamp
		if author == ARGV[4] then
			later = tonumber(ARGV[5]) > tonumber(n) -- whatever was on its way for how long
		end
		if not later then
			return {text(now), old}
		end
	end
elseif ARGV[6] == '0' and ARGV[7] ~= '1' then
	return {text(now), ''}
end
stamp = math.max(now - (tonumber(ARGV[3]) or 0), stamp + 1)
local what = ARGV[6]
if what == '0' then
	keep = now / 1000 + 2592000000 -- as long as any ban may last that was decided before
elseif string.sub(field, 1, 1) == 'b' then
	local ends = math.floor(now / 1000) + what
	keep = math.max(keep, ends) -- so that it overrules a longer one also after its own end
	what = text(ends)
end
local value = string.format('%.0f %s %s %.0f %s', stamp, ARGV[4], ARGV[5], math.floor(keep), what)
local prev = redis.call('HGET', key, 'v') or '0'
local version = text(math.max(now, prev + 1))
redis.call('HSET', key, 'v', version, field, value)
redis.call('PUBLISH', ARGV[1], 'b' .. prev .. ' ' .. version .. ' ' .. text(now) .. '\n' .. field .. '\n' .. value)
return {text(now), value}
