-- Release every switch of a scope that stands.
UPDATE kill_switch
SET released = %(released)s, released_by = %(released_by)s
WHERE scope = %(scope)s AND released IS NULL
RETURNING *
