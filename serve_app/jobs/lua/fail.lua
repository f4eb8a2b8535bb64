-- End jobs that this lease holds with a failure (token, then id, slug, detail, …): 1 or 0 for each.
local token = ARGV[1]
local ended = {}
for place = 2, #ARGV, 3 do
  local record = load_held(ARGV[place], token)
  ended[#ended + 1] = 0
  if record and may(record, 'FAILED') then
    finish(record, 'FAILED', 'failed', { slug = ARGV[place + 1], detail = ARGV[place + 2] })
    let_expire(record, true)
    ended[#ended] = 1
  end
end
return ended
