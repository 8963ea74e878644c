"""The functions and triggers of migration 0020, which count what projects use. Like it, they never change."""

# What makes less of something, or ends a wait, is never refused.
NEVER_REFUSED = (
    *("delete", "delete-snapshot", "delete-volume", "detach-volume", "detach-interface"),
    *("stop", "confirm-resize", "revert-resize"),
)

FUNCTIONS = {
    # Refuses a transaction: the caller reads the quota from the constraint's name, and the numbers from the detail.
    "refuse_beyond(quota text, allowed bigint, used bigint, more bigint) RETURNS void": """
        BEGIN
            IF more > 0 AND allowed > 0 AND used > allowed THEN
                RAISE EXCEPTION 'quota % exceeded', quota
                USING ERRCODE = 'check_violation', CONSTRAINT = 'quota_' || quota,
                      DETAIL = json_build_object('limit', allowed, 'used', used - more)::text;
            END IF;
        END
    """,
    # Adds to what a project uses. The row stays locked until the commit, so nobody else counts in between.
    "use_quota(project uuid, is_checked boolean, more_vms bigint, more_vcpus bigint, more_ram_mb bigint, "
    "more_volumes bigint, more_volume_gb bigint, more_snapshots bigint, more_operations bigint) RETURNS void": """
        DECLARE
            used project_usage;
            own project_quotas;
            usual default_quotas;
        BEGIN
            UPDATE project_usage
            SET vms = vms + more_vms, vcpus = vcpus + more_vcpus, ram_mb = ram_mb + more_ram_mb,
                volumes = volumes + more_volumes, volume_gb = volume_gb + more_volume_gb,
                snapshots = snapshots + more_snapshots, open_operations = open_operations + more_operations
            WHERE project_id = project
            RETURNING * INTO used;
            IF is_checked AND NOT FOUND THEN
                RAISE EXCEPTION 'the project has been deleted'
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'deleted_project', DETAIL = project;
            END IF;
            IF NOT is_checked THEN
                RETURN;
            END IF;
            SELECT * INTO own FROM project_quotas WHERE project_id = project;
            SELECT * INTO usual FROM default_quotas;
            PERFORM
                refuse_beyond('vms', coalesce(own.vms, usual.vms), used.vms, more_vms),
                refuse_beyond('vcpus', coalesce(own.vcpus, usual.vcpus), used.vcpus, more_vcpus),
                refuse_beyond('ram_mb', coalesce(own.ram_mb, usual.ram_mb), used.ram_mb, more_ram_mb),
                refuse_beyond('volumes', coalesce(own.volumes, usual.volumes), used.volumes, more_volumes),
                refuse_beyond('volume_gb', coalesce(own.volume_gb, usual.volume_gb), used.volume_gb, more_volume_gb),
                refuse_beyond('snapshots', coalesce(own.snapshots, usual.snapshots), used.snapshots, more_snapshots),
                refuse_beyond('open_operations', coalesce(own.open_operations, usual.open_operations),
                              used.open_operations, more_operations);
        END
    """,
    "count_vm() RETURNS trigger": """
        DECLARE
            size flavors;
            vms bigint := 0;
            vcpus bigint := 0;
            ram bigint := 0;
            is_asked_for boolean := false;
        BEGIN
            IF TG_OP <> 'DELETE' AND NEW.status <> 'DELETED' THEN
                SELECT * INTO size FROM flavors WHERE id = NEW.flavor_id;
                vms := 1;
                vcpus := greatest(size.vcpus, NEW.reserved_vcpus);
                ram := greatest(size.ram_mb, NEW.reserved_ram_mb);
            END IF;
            IF TG_OP <> 'INSERT' AND OLD.status <> 'DELETED' THEN
                SELECT * INTO size FROM flavors WHERE id = OLD.flavor_id;
                vms := vms - 1;
                vcpus := vcpus - greatest(size.vcpus, OLD.reserved_vcpus);
                ram := ram - greatest(size.ram_mb, OLD.reserved_ram_mb);
            END IF;
            IF TG_OP = 'INSERT' THEN
                is_asked_for := NEW.status = 'BUILDING';
            ELSIF TG_OP = 'UPDATE' THEN
                is_asked_for := OLD.reserved_vcpus IS NULL AND NEW.reserved_vcpus IS NOT NULL;
            END IF;
            PERFORM use_quota(coalesce(NEW.owner_id, OLD.owner_id), is_asked_for, vms, vcpus, ram, 0, 0, 0, 0);
            RETURN NULL;
        END
    """,
    "count_volume() RETURNS trigger": """
        DECLARE
            volumes bigint := 0;
            gb bigint := 0;
            is_asked_for boolean := false;
        BEGIN
            IF TG_OP <> 'DELETE' AND NEW.status <> 'DELETED' THEN
                volumes := 1;
                gb := greatest(NEW.size_gb, NEW.reserved_gb);
            END IF;
            IF TG_OP <> 'INSERT' AND OLD.status <> 'DELETED' THEN
                volumes := volumes - 1;
                gb := gb - greatest(OLD.size_gb, OLD.reserved_gb);
            END IF;
            IF TG_OP = 'INSERT' THEN
                is_asked_for := NEW.status = 'CREATING';
            ELSIF TG_OP = 'UPDATE' THEN
                is_asked_for := OLD.reserved_gb IS NULL AND NEW.reserved_gb IS NOT NULL;
            END IF;
            PERFORM use_quota(coalesce(NEW.owner_id, OLD.owner_id), is_asked_for, 0, 0, 0, volumes, gb, 0, 0);
            RETURN NULL;
        END
    """,
    "count_snapshot() RETURNS trigger": """
        DECLARE
            snapshots bigint := 0;
        BEGIN
            IF TG_OP <> 'DELETE' AND NEW.status <> 'DELETED' THEN
                snapshots := 1;
            END IF;
            IF TG_OP <> 'INSERT' AND OLD.status <> 'DELETED' THEN
                snapshots := snapshots - 1;
            END IF;
            PERFORM use_quota(
                coalesce(NEW.owner_id, OLD.owner_id), TG_OP = 'INSERT' AND NEW.status = 'CREATING',
                0, 0, 0, 0, 0, snapshots, 0
            );
            RETURN NULL;
        END
    """,
    "count_address() RETURNS trigger": """
        DECLARE
            project uuid;
            network text := coalesce(NEW.network_id, OLD.network_id)::text;
            more bigint := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END;
            used bigint;
            allowed bigint;
        BEGIN
            SELECT owner_id INTO project FROM vms WHERE id = coalesce(NEW.vm_id, OLD.vm_id);
            UPDATE project_usage
            SET addresses = CASE coalesce((addresses ->> network)::bigint, 0) + more
                WHEN 0 THEN addresses - network
                ELSE jsonb_set(addresses, ARRAY[network], to_jsonb(coalesce((addresses ->> network)::bigint, 0) + more))
                END
            WHERE project_id = project
            RETURNING (addresses ->> network)::bigint INTO used;
            IF TG_OP = 'INSERT' AND NEW.status = 'ATTACHING' THEN
                SELECT coalesce(own.addresses_per_network, usual.addresses_per_network) INTO allowed
                FROM default_quotas usual LEFT JOIN project_quotas own ON own.project_id = project;
                PERFORM refuse_beyond('addresses_per_network', allowed, used, more);
            END IF;
            RETURN NULL;
        END
    """,
    "count_operation() RETURNS trigger": f"""
        DECLARE
            is_asked_for boolean := false;
        BEGIN
            IF TG_OP = 'INSERT' THEN
                is_asked_for := NEW.action NOT IN {NEVER_REFUSED};
            END IF;
            PERFORM use_quota(
                coalesce(NEW.owner_id, OLD.owner_id), is_asked_for, 0, 0, 0, 0, 0, 0,
                CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END
            );
            RETURN NULL;
        END
    """,
    # What an operation has reserved is free again once it has ended, in whatever way.
    "release_reserved_size() RETURNS trigger": """
        BEGIN
            NEW.reserved_vcpus := NULL;
            NEW.reserved_ram_mb := NULL;
            RETURN NEW;
        END
    """,
    "release_reserved_gb() RETURNS trigger": """
        BEGIN
            NEW.reserved_gb := NULL;
            RETURN NEW;
        END
    """,
    "begin_usage() RETURNS trigger": """
        BEGIN
            INSERT INTO project_usage (project_id) VALUES (NEW.id);
            RETURN NULL;
        END
    """,
}

# Each counts after the rows are written, just before the commit. A WHEN is looked at at once, so most changes cost
# nothing more.
_DEFERRED = "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
TRIGGERS = [
    f"CREATE CONSTRAINT TRIGGER count_new_vm AFTER INSERT ON vms {_DEFERRED} EXECUTE FUNCTION count_vm()",
    f"""CREATE CONSTRAINT TRIGGER count_gone_vm AFTER DELETE ON vms {_DEFERRED}
        WHEN (OLD.status <> 'DELETED') EXECUTE FUNCTION count_vm()""",
    f"""CREATE CONSTRAINT TRIGGER count_changed_vm AFTER UPDATE ON vms {_DEFERRED}
        WHEN ((OLD.status = 'DELETED') <> (NEW.status = 'DELETED') OR OLD.flavor_id <> NEW.flavor_id
              OR OLD.reserved_vcpus IS DISTINCT FROM NEW.reserved_vcpus
              OR OLD.reserved_ram_mb IS DISTINCT FROM NEW.reserved_ram_mb)
        EXECUTE FUNCTION count_vm()""",
    """CREATE TRIGGER release_reserved_size BEFORE UPDATE ON vms FOR EACH ROW
        WHEN (NEW.reserved_vcpus IS NOT NULL AND NEW.task_state IS NULL AND NEW.status <> 'VERIFY_RESIZE')
        EXECUTE FUNCTION release_reserved_size()""",
    f"CREATE CONSTRAINT TRIGGER count_new_volume AFTER INSERT ON volumes {_DEFERRED} EXECUTE FUNCTION count_volume()",
    f"""CREATE CONSTRAINT TRIGGER count_gone_volume AFTER DELETE ON volumes {_DEFERRED}
        WHEN (OLD.status <> 'DELETED') EXECUTE FUNCTION count_volume()""",
    f"""CREATE CONSTRAINT TRIGGER count_changed_volume AFTER UPDATE ON volumes {_DEFERRED}
        WHEN ((OLD.status = 'DELETED') <> (NEW.status = 'DELETED') OR OLD.size_gb <> NEW.size_gb
              OR OLD.reserved_gb IS DISTINCT FROM NEW.reserved_gb)
        EXECUTE FUNCTION count_volume()""",
    """CREATE TRIGGER release_reserved_gb BEFORE UPDATE ON volumes FOR EACH ROW
        WHEN (NEW.reserved_gb IS NOT NULL AND NEW.status <> 'EXTENDING')
        EXECUTE FUNCTION release_reserved_gb()""",
    f"""CREATE CONSTRAINT TRIGGER count_new_snapshot AFTER INSERT ON snapshots {_DEFERRED}
        EXECUTE FUNCTION count_snapshot()""",
    f"""CREATE CONSTRAINT TRIGGER count_gone_snapshot AFTER DELETE ON snapshots {_DEFERRED}
        WHEN (OLD.status <> 'DELETED') EXECUTE FUNCTION count_snapshot()""",
    f"""CREATE CONSTRAINT TRIGGER count_changed_snapshot AFTER UPDATE ON snapshots {_DEFERRED}
        WHEN ((OLD.status = 'DELETED') <> (NEW.status = 'DELETED')) EXECUTE FUNCTION count_snapshot()""",
    f"""CREATE CONSTRAINT TRIGGER count_address AFTER INSERT OR DELETE ON interfaces {_DEFERRED}
        EXECUTE FUNCTION count_address()""",
    f"""CREATE CONSTRAINT TRIGGER count_new_operation AFTER INSERT ON operations {_DEFERRED}
        WHEN (NEW.finished_at IS NULL) EXECUTE FUNCTION count_operation()""",
    f"""CREATE CONSTRAINT TRIGGER count_gone_operation AFTER DELETE ON operations {_DEFERRED}
        WHEN (OLD.finished_at IS NULL) EXECUTE FUNCTION count_operation()""",
    f"""CREATE CONSTRAINT TRIGGER count_ended_operation AFTER UPDATE OF finished_at ON operations {_DEFERRED}
        WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL) EXECUTE FUNCTION count_operation()""",
    "CREATE TRIGGER begin_usage AFTER INSERT ON projects FOR EACH ROW EXECUTE FUNCTION begin_usage()",
]
