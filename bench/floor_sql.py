"""The statements of the floor (see `bench.floor`), written by hand, and the tables that it writes.

It reads the tables of the service. It writes to tables of the same shape in a schema of its own, with the same checks,
indexes and foreign keys, but without triggers: it counts what a project uses itself.
"""

import asyncpg

_TABLES = ("vms", "operations", "interfaces", "project_usage")
_REFERENCES = """
    SELECT format('ALTER TABLE floor.%s ADD %s', relname, replace(replace(pg_get_constraintdef(pg_constraint.oid),
        'REFERENCES vms(', 'REFERENCES floor.vms('), 'REFERENCES operations(', 'REFERENCES floor.operations('))
    FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid
    WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND relname = ANY($1::text[])
"""


async def make_tables(url: str) -> None:
    """Create the tables that the floor writes, with a row of use for each project that there is."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute("CREATE SCHEMA floor")
    for table in _TABLES:
        await connection.execute(f"CREATE TABLE floor.{table} (LIKE {table} INCLUDING ALL)")
    for row in await connection.fetch(_REFERENCES, _TABLES):
        await connection.execute(row[0])
    await connection.execute("INSERT INTO floor.project_usage SELECT id FROM projects")
    await connection.close()


_COLUMNS = """
    vms.id, vms.owner_id AS project_id, vms.name, vms.status, vms.task_state, vms.flavor_id, vms.image_id, vms.labels,
    vms.fault, vms.operation_id, vms.confirm_by, vms.launched_at, vms.snapshot_id, vms.boot_volume_id,
    vms.availability_zone, vms.security_groups, vms.created_at, vms.updated_at,
    (SELECT json_build_object('id', id, 'name', name, 'vcpus', vcpus, 'ram_mb', ram_mb, 'disk_gb', disk_gb)
     FROM flavors WHERE id = vms.flavor_id) AS flavor,
    (SELECT coalesce(json_agg(json_build_object('network_id', networks.id, 'network', networks.name,
                'ip_address', ip_address, 'mac_address', mac_address) ORDER BY interfaces.created_at), '[]')
     FROM interfaces JOIN networks ON networks.id = network_id WHERE interfaces.vm_id = vms.id) AS addresses,
    (SELECT coalesce(json_agg(json_build_object('volume_id', volume_id, 'device', device) ORDER BY device), '[]')
     FROM attachments WHERE attachments.vm_id = vms.id) AS volumes,
    CASE WHEN vms.status = 'VERIFY_RESIZE' THEN (
        SELECT (input ->> 'previous_flavor_id')::uuid FROM operations
        WHERE operations.vm_id = vms.id AND action = 'resize' AND status = 'SUCCEEDED' ORDER BY created_at DESC LIMIT 1
    ) END AS previous_flavor_id
"""

ONE = f"""
    SELECT {_COLUMNS} FROM vms
    WHERE vms.id = $1 AND (owner_id = $2 OR owner_id IN (SELECT project_id FROM project_members WHERE user_id = $2))
"""

PAGE = f"""
    SELECT {_COLUMNS}, (SELECT count(*) FROM (
        SELECT FROM vms WHERE owner_id = $1 AND status <> 'DELETED' ORDER BY created_at, id LIMIT 10001
    ) AS counted) AS total
    FROM vms WHERE owner_id = $1 AND status <> 'DELETED' ORDER BY created_at DESC, id DESC LIMIT $2
"""

ONE_AS_JSON = f"SELECT row_to_json(found)::text FROM ({ONE}) AS found"

PAGE_AS_JSON = f"""
    SELECT json_build_object('items', json_agg(row_to_json(found)), 'total', max(total), 'total_is_exact', true,
        'page', 1, 'page_size', $2::bigint, 'pages', 1, 'next_cursor', NULL, 'items_moved', false,
        'next_changes_since', now())::text
    FROM ({PAGE}) AS found
"""

# What the request names, and an address of the default network that is free.
OFFERS = """
    SELECT flavors.name, flavors.vcpus, flavors.ram_mb, flavors.disk_gb, images.id AS image_id, images.size_gb,
        networks.id AS network_id, networks.name AS network, (
            SELECT address FROM (
                SELECT host(set_masklen(networks.cidr::inet, 32)
                    + 1 + floor(random() * (2 ^ (32 - masklen(networks.cidr::inet)) - 2))::int) AS address
                FROM generate_series(1, 16)
            ) AS drawn
            WHERE address <> networks.gateway AND NOT EXISTS (
                SELECT FROM floor.interfaces WHERE network_id = networks.id AND ip_address = address
            ) LIMIT 1
        ) AS ip_address
    FROM flavors, images, networks
    WHERE flavors.id = $1 AND flavors.is_available AND images.is_default AND images.is_available
        AND networks.is_default AND networks.is_available
"""

# One statement, so it is a transaction by itself. It writes nothing if the project has used up a quota.
CREATE = """
    WITH allowed AS (
        SELECT coalesce(own.vms, usual.vms) AS vms, coalesce(own.vcpus, usual.vcpus) AS vcpus,
            coalesce(own.ram_mb, usual.ram_mb) AS ram_mb,
            coalesce(own.open_operations, usual.open_operations) AS open_operations,
            coalesce(own.addresses_per_network, usual.addresses_per_network) AS addresses
        FROM default_quotas AS usual LEFT JOIN project_quotas AS own ON own.project_id = $1::uuid
    ), used AS (
        UPDATE floor.project_usage AS used
        SET vms = used.vms + 1, vcpus = used.vcpus + $10::int, ram_mb = used.ram_mb + $11::int,
            open_operations = used.open_operations + 1,
            addresses = jsonb_set(
                used.addresses, ARRAY[$7::text], to_jsonb(coalesce((used.addresses ->> $7::text)::bigint, 0) + 1)
            )
        FROM allowed
        WHERE project_id = $1 AND used.vms < allowed.vms AND used.vcpus + $10::int <= allowed.vcpus
            AND used.ram_mb + $11::int <= allowed.ram_mb AND used.open_operations < allowed.open_operations
            AND coalesce((used.addresses ->> $7::text)::bigint, 0) < allowed.addresses
        RETURNING project_id
    ), new_vm AS (
        INSERT INTO floor.vms
            (id, owner_id, name, status, task_state, flavor_id, image_id, labels, operation_id, changed)
        SELECT $2::uuid, project_id, $3::text, 'BUILDING', 'scheduling', $4::uuid, $5::uuid, $6::jsonb, $12::uuid,
            pg_current_xact_id() FROM used
        RETURNING created_at
    ), new_interface AS (
        INSERT INTO floor.interfaces (vm_id, network_id, ip_address, mac_address, status, operation_id)
        SELECT $2::uuid, $7::text::uuid, $8::text, $9::text, 'ATTACHING', $12::uuid FROM used
    ), new_operation AS (
        INSERT INTO floor.operations (id, owner_id, actor, action, resource_type, resource_id, vm_id, input,
            previous_status, workflow_id, request_id, changed)
        SELECT $12::uuid, project_id, $13::text, 'create', 'vm', $2::uuid, $2::uuid, $14::jsonb, 'BUILDING',
            'create-' || $2::uuid || '-' || $12::uuid, $15::text, pg_current_xact_id() FROM used
    )
    SELECT created_at FROM new_vm
"""
