-- KEYS[2]: a number. KEYS[3]: what was done, a hash of operation -> result, amount and key. KEYS[4]: those operations,
-- the newest first. ARGV[3]: the amount. ARGV[4]: the operation. ARGV[5]: how many are remembered.
local known = redis.pcall('HGET', KEYS[3], ARGV[4])
if type(known) == 'table' then
  return {'fence', known.err}
end
if known then
  local result, amount, key = string.match(known, '^(%-?%d+) (%-?%d+) (.*)$')
  if not result then
    return {'foreign', tostring(#known)}
  end
  if amount ~= ARGV[3] or key ~= KEYS[2] then
    return {'another', ''}
  end
  return {'done', result}
end
local length = redis.pcall('LLEN', KEYS[4]) -- before anything is written: whether it can be remembered
if type(length) == 'table' then
  return {'fence', length.err}
end
local raised = redis.pcall('INCRBY', KEYS[2], ARGV[3])
if type(raised) == 'table' then
  return {'failed', raised.err}
end
local result = redis.call('GET', KEYS[2]) -- with all its digits, which the number has lost
redis.call('HSET', KEYS[3], ARGV[4], result .. ' ' .. ARGV[3] .. ' ' .. KEYS[2])
redis.call('LPUSH', KEYS[4], ARGV[4])
while redis.call('LLEN', KEYS[4]) > tonumber(ARGV[5]) do
  redis.call('HDEL', KEYS[3], redis.call('RPOP', KEYS[4]))
end
return {'done', result}
