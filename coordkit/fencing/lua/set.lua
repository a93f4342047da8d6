-- KEYS[2]: what is written. ARGV[3]: the value. ARGV[4]: milliseconds after which it expires, or nothing.
if ARGV[4] == '' then
  return outcome(redis.pcall('SET', KEYS[2], ARGV[3]))
end
return outcome(redis.pcall('SET', KEYS[2], ARGV[3], 'PX', ARGV[4]))
