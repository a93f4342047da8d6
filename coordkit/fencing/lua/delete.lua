-- KEYS[2]: what is deleted.
return outcome(redis.pcall('DEL', KEYS[2]))
