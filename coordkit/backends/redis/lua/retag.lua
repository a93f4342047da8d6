-- Takes a voter over from one agreement to the next; its state, its birth and its records stay as they are.
--
-- ARGV: 2 the agreement that it has to have, 4 the next one, 5 how its records have to look: a digest that an earlier
-- answer gave, "*" for any, or nothing, if only the digest is wanted. The digest has the birth and the memory in it: a
-- voter that was started again meanwhile has moved, too.
-- The answer is "seen", "moved" or "retagged", and the digest.

local function digest()
    local fields, lines = redis.call('HGETALL', hash), {}
    for place = 1, #fields, 2 do
        if fields[place] ~= 'marker' then
            lines[#lines + 1] = #fields[place] .. ' ' .. fields[place] .. ' ' .. fields[place + 1]
        end
    end
    table.sort(lines)
    return redis.sha1hex(birth .. ' ' .. memory .. ' ' .. table.concat(lines, '\n'))
end

local answers = {}
if counted then
    local shown = digest()
    if ARGV[5] == '' then
        answers = {'seen', shown}
    elseif ARGV[5] ~= '*' and ARGV[5] ~= shown then
        answers = {'moved', shown}
    else
        config = ARGV[4]
        mark(standing)
        answers = {'retagged', shown}
    end
end
return answer(answers)
