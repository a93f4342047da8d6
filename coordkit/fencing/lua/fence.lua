-- Every fenced call begins here: the token is compared and remembered, and what follows in the same script happens
-- under it, or not at all. Nothing is said of time, and nothing expires.
--
-- KEYS[1]: the fence, a hash of election -> the newest token, in decimal. ARGV[1]: the election. ARGV[2]: the token.
-- Tokens have up to 63 bits, and Lua's numbers are exact up to 2^53 only: they are compared as text.

local LARGEST = '9223372036854775807'

local function above(one, other)
  if #one ~= #other then
    return #one > #other
  end
  return one > other -- digits only, so whatever the server's locale is
end

local function is_token(text)
  return string.find(text, '^[1-9]%d*$') ~= nil and not above(text, LARGEST)
end

-- What refuses this call; nil: it is admitted, and the token is remembered.
local function refusal()
  local newest = redis.pcall('HGET', KEYS[1], ARGV[1])
  if type(newest) == 'table' then
    return {'fence', newest.err}
  end
  if newest and not is_token(newest) then
    return {'foreign', tostring(#newest)}
  end
  if newest and above(newest, ARGV[2]) then
    return {'stale', newest}
  end
  if newest ~= ARGV[2] then
    local written = redis.pcall('HSET', KEYS[1], ARGV[1], ARGV[2])
    if type(written) == 'table' then
      return {'fence', written.err}
    end
  end
end

-- The answer to one command of Redis.
local function outcome(result)
  if type(result) == 'table' and result.err then
    return {'failed', result.err}
  end
  return {'done', result}
end

local refused = refusal()
if refused then
  return refused
end
