-- What is recorded of some elections. Grants nothing, changes no record.
--
-- ARGV from 4: election, call. Where `call` is 1, whoever leads that election is asked for a sign of life.
-- Each answer is the record as it is written, or nothing.

local answers = {}
if counted then
    for place = 4, #ARGV, 2 do
        local election = ARGV[place]
        answers[#answers + 1] = redis.call('HGET', hash, 'e:' .. election) or ''
        if ARGV[place + 1] == '1' then
            redis.pcall('PUBLISH', hash .. ':' .. election, 'call')
        end
    end
end
return answer(answers)
