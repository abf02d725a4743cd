-- One row per reply: its rank with null settled. An only reply stands at 0, as Open Assistant's own loader lets it pass;
-- deleted siblings count as siblings there, and so here. One left out of its siblings' ranking keeps null.
-- reads: messages    grain: message_id

select
    message_id,
    coalesce(rank, case when count(*) over (partition by parent_id) = 1 then 0 end)::integer as standing
from messages
where role = 'assistant'
order by message_id
