-- The last reply of each tree's best path: at every prompt the reply of lowest standing present, then its first follow-up
-- that was answered, to the end. A reply counts where it is neither deleted nor failed its review; a person's comes before a
-- machine's; one that its siblings' ranking left out never does. A deleted prompt ends the path above it.
-- reads: messages, standings    grain: thread_id

with recursive

-- The best reply to each prompt.
answers as (
    select messages.parent_id as prompt_id, messages.message_id as reply_id
    from messages
    inner join standings using (message_id)
    where messages.role = 'assistant'
        and not messages.deleted
        and messages.review_result is distinct from false
        and standings.standing is not null
    qualify row_number() over (
        partition by messages.parent_id
        order by messages.synthetic, standings.standing, messages.place, messages.message_id
    ) = 1
),

answered as (
    select prompts.message_id as prompt_id, prompts.parent_id, prompts.place, answers.reply_id
    from messages as prompts
    inner join answers on answers.prompt_id = prompts.message_id
    where prompts.role = 'prompter' and not prompts.deleted
),

-- The first answered follow-up of each reply.
follow_ups as (
    select parent_id, reply_id
    from answered
    where parent_id is not null
    qualify row_number() over (partition by parent_id order by place, prompt_id) = 1
),

path as (
    select reply_id
    from answered
    where parent_id is null

    union all

    select follow_ups.reply_id
    from path
    inner join follow_ups on follow_ups.parent_id = path.reply_id
)

select reply_id as thread_id
from path
where reply_id not in (select parent_id from follow_ups)
order by thread_id
