package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hub"
	"github.com/berth-iot/berth/provision"
)

// What a program that knows schema 1 says to the database, word for word.
const (
	oldSelectRegistration = `SELECT id, attestation, status, substatus, hub, device_id, error_code, error_message, payload, operation_id,
	etag, created, updated, hub_key_blob, endorsement_key, storage_root_key, group_id, scope, key FROM registration WHERE scope = $1 AND key = $2`
	oldInsertRegistration = `INSERT INTO registration (id, attestation, status, substatus, hub, device_id, error_code, error_message, payload, operation_id,
	etag, created, updated, hub_key_blob, endorsement_key, storage_root_key, group_id, scope, key) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)`
	oldUpdateRegistration = `UPDATE registration SET (id, attestation, status, substatus, hub, device_id, error_code, error_message, payload, operation_id,
	etag, created, updated, hub_key_blob, endorsement_key, storage_root_key, group_id) = ROW($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) WHERE ( scope, key) = ($18, $19)`

	oldEnrollmentColumns = `scope, kind, key, id, mechanism, device_id, device_information, keys,
	x509_use, x509_primary, x509_secondary, x509_primary_name, x509_secondary_name, endorsement_key, storage_root_key,
	disabled, iot_edge, twin, twin_tags, twin_desired, reprovision, allocation, hubs, hub, custom_allocation,
	credential_policy, etag, created, updated, tpm_group`
	oldSelectGroups = "SELECT " + oldEnrollmentColumns + " FROM enrollment WHERE scope = $1 AND mechanism = $2 AND kind = 'group' ORDER BY key"
	oldInsertEntry  = "INSERT INTO enrollment (" + oldEnrollmentColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30)`

	oldDeviceColumns = `hub, id, generation_id, etag, disabled, status_reason, status_updated, iot_edge, authentication,
	primary_thumbprint, secondary_thumbprint, keys, twin_version, tags, desired, desired_version, desired_updated, reported, reported_version, reported_updated`
	oldLockHome   = "SELECT " + oldDeviceColumns + " FROM device WHERE hub = $1 AND id = $2 FOR UPDATE"
	oldInsertHome = "INSERT INTO device (" + oldDeviceColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)`
	oldUpdateHome = `UPDATE device SET ( generation_id, etag, disabled, status_reason, status_updated, iot_edge, authentication,
	primary_thumbprint, secondary_thumbprint, keys, twin_version, tags, desired, desired_version, desired_updated, reported, reported_version, reported_updated) = ROW($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20) WHERE (hub, id) = ($1, $2)`

	oldSelectScope = "SELECT id, allocation FROM scope WHERE id = $1"
	oldPutScope    = "INSERT INTO scope (id, allocation) VALUES ($1, $2)\n\t\t\tON CONFLICT (id) DO UPDATE SET allocation = excluded.allocation"
	oldLinked      = "SELECT host, weight, allocation FROM linked_hub WHERE scope = $1 ORDER BY lower(host)"
	oldLink        = `INSERT INTO linked_hub (scope, host, weight, allocation) VALUES ($1, $2, $3, $4)
			ON CONFLICT (scope, lower(host)) DO UPDATE SET host = excluded.host, weight = excluded.weight, allocation = excluded.allocation`
	oldPutPolicy = `INSERT INTO policy (owner, name, rights, keys) VALUES ($1, $2, $3, $4)
			ON CONFLICT (owner, lower(name)) DO UPDATE SET name = excluded.name, rights = excluded.rights, keys = excluded.keys`
	oldInsertMessages = `WITH taken AS (
			UPDATE counter SET value = value + $1 WHERE name = 'message' RETURNING value - $1 AS before
		)
		INSERT INTO message (sequence, hub, device_id, enqueued, system, properties, body)
		SELECT taken.before + m.number, m.hub, m.device_id, m.enqueued, m.system, m.properties, m.body
		FROM taken, unnest($2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::bytea[])
			WITH ORDINALITY AS m (hub, device_id, enqueued, system, properties, body, number)`
	oldTellMessages   = "SELECT value, pg_notify('berth_message', value::text) FROM counter WHERE name = 'message'"
	oldSelectMessages = `SELECT sequence, hub, device_id, enqueued, system, properties, body FROM message
		WHERE hub = $1 AND sequence > $2 ORDER BY sequence LIMIT $3`
	oldDeleteMessages = `DELETE FROM message WHERE sequence IN (
		SELECT sequence FROM message WHERE enqueued < $1 LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING sequence`

	oldChanged = "UPDATE counter SET value = value + 1 WHERE name = 'change'"
	oldSchema  = "SELECT version, minimum_reader FROM berth_schema"
)

// An oldServer is a program of schema 1 that runs while others are upgraded.
type oldServer struct {
	t *testing.T
	c *pgx.Conn
}

// openOld makes a database of schema 1 and what a server of that day had in it.
func openOld(t *testing.T, dsn string) *oldServer {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	first, _, err := readStep(steps()[0])
	if err == nil {
		err = createSchema(t.Context(), c)
	}
	if err == nil {
		err = script(t.Context(), c, first+"; UPDATE berth_schema SET version = 1, minimum_reader = 1")
	}
	if err != nil {
		t.Fatal(err)
	}
	o := &oldServer{t, c}
	o.do(oldPutScope, string(testScope), "hashed")
	o.do(oldLink, string(testScope), "hub.example:8443", 1, true)
	o.do(oldPutPolicy, "hub:hub.example", "iothubowner", 15, []byte(nil))
	o.do(oldInsertEntry, string(testScope), "group", "line-1", "Line-1", "tpm", "", nil, nil, "", nil, nil, "", "", []byte("ek"), nil,
		false, false, false, nil, nil, nil, "", nil, "", nil, "", "old", 1, 1, nil)
	o.register("pump-1", "assigned")
	return o
}

// do runs a statement as the old program does, prepared and with its arguments.
func (o *oldServer) do(statement string, args ...any) (rows int) {
	o.t.Helper()
	found, err := o.c.Query(o.t.Context(), statement, args...)
	if err == nil {
		for found.Next() {
			rows++
		}
		err = found.Err()
	}
	if err != nil {
		o.t.Fatalf("an old server says\n%s\nand is told: %v", statement, err)
	}
	return rows
}

// register is an old server's registration of a device that it has not seen.
func (o *oldServer) register(id, status string) {
	o.t.Helper()
	o.do(oldInsertHome, "hub.example", id, "1", "tag", false, "", nil, false, "sas", "", "", nil, 1, nil, nil, 1, nil, nil, 1, nil)
	o.do(oldInsertRegistration, o.record(id, status)...)
}

// registerAgain is that of one that it finds a record of.
func (o *oldServer) registerAgain(id, status string) {
	o.t.Helper()
	if o.do(oldLockHome, "hub.example", id) != 1 || o.do(oldSelectRegistration, string(testScope), id) != 1 {
		o.t.Fatalf("an old server does not find %s", id)
	}
	o.do(oldUpdateHome, "hub.example", id, "1", "next", false, "", nil, false, "sas", "", "", nil, 1, nil, nil, 1, nil, nil, 1, nil)
	o.do(oldUpdateRegistration, o.record(id, status)...)
}

func (o *oldServer) record(id, status string) []any {
	return []any{id, "tpm", status, "initialAssignment", "hub.example:8443", id, 0, "", nil, "1.2.3", "tag", 1, 1, nil, nil, nil, "Line-1", string(testScope), id}
}

// A server of schema 1 goes on while a new one upgrades the database under it:
// every one of its statements is understood, each of the two reads what the
// other writes, and what only the new one knows about is not in the way.
func TestAnOlderServerGoesOnWhileANewOneUpgrades(t *testing.T) {
	dsn := testDSN(t)
	old := openOld(t, dsn)
	s := openAt(t, dsn, serverKey(t))
	ctx := t.Context()

	// The old server looks every second whether it may go on.
	var version, minimum int
	if err := old.c.QueryRow(ctx, oldSchema).Scan(&version, &minimum); err != nil || version != len(steps()) || minimum > 1 {
		t.Fatalf("schema %d needs a program that knows %d, %v; one that knows 1 runs", version, minimum, err)
	}

	// The new one has all of it.
	check := func(id device.RegistrationID) {
		t.Helper()
		r, err := s.Registration(ctx, testScope, id)
		if err != nil || r.Status != provision.Assigned || r.Pending != nil {
			t.Errorf("the record of %s: %+v, %v", id, r, err)
		}
		if _, err := s.Identity(ctx, hub.Place{Hub: "hub.example", ID: device.ID(id)}); err != nil {
			t.Errorf("the identity of %s: %v", id, err)
		}
	}
	check("pump-1")
	if scope, err := s.Scope(ctx, testScope); err != nil || scope.Allocation != "hashed" || scope.SharedKeys != provision.WarnOfSharedKeys {
		t.Errorf("the scope: %+v, %v", scope, err)
	}
	if linked, err := s.Linked(ctx, testScope); err != nil || len(linked) != 1 || linked[0].Host != "hub.example:8443" || linked[0].Connection != nil {
		t.Errorf("the hubs: %+v, %v", linked, err)
	}
	if groups, err := s.Groups(ctx, testScope, attest.TypeTPM); err != nil || len(groups) != 1 || groups[0].ETag != "old" {
		t.Errorf("the groups: %+v, %v", groups, err)
	}

	// Both write.
	old.register("pump-2", "assigned")
	check("pump-2")
	old.registerAgain("pump-1", "assigned")
	check("pump-1")
	put := func(id device.RegistrationID, status provision.Status, pending *provision.Pending) {
		t.Helper()
		err := s.ChangeRegistration(ctx, testScope, id, func(*provision.Registration) (*provision.Registration, error) {
			return &provision.Registration{Scope: testScope, Key: id, ID: string(id), Status: status, Hub: "hub.example:8443", DeviceID: device.ID(id), Pending: pending}, nil
		})
		if err == nil {
			err = s.Change(ctx, hub.Place{Hub: "hub.example", ID: device.ID(id)}, func(*hub.Identity, *hub.Twin) (*hub.Identity, *hub.Twin, error) {
				return &hub.Identity{Place: hub.Place{Hub: "hub.example", ID: device.ID(id)}, Auth: hub.Authentication{Type: hub.AuthSelfSigned}}, &hub.Twin{}, nil
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put("pump-3", provision.Assigned, nil)
	old.registerAgain("pump-3", "assigned")
	check("pump-3")

	// A device whose registration is under way at a new server asks an old one.
	due := time.Now().Add(-time.Minute)
	put("pump-4", provision.Assigning, &provision.Pending{Due: due})
	put("pump-5", provision.Assigning, &provision.Pending{Due: due})
	old.registerAgain("pump-4", "assigned")
	under, err := s.DueRegistrations(ctx, time.Now(), 10)
	if err != nil || len(under) != 1 || under[0].Key != "pump-5" {
		t.Errorf("under way: %v, %v; only pump-5 is", keys(under), err)
	}

	// An operator calls an old server, and the new one hears of it.
	old.do(oldPutScope, string(testScope), "static")
	old.do(oldLink, string(testScope), "hub-2.example", 2, true)
	old.do(oldPutPolicy, "hub:hub-2.example", "iothubowner", 15, []byte(nil))
	old.do(oldInsertEntry, string(testScope), "group", "line-2", "line-2", "tpm", "", nil, nil, "", nil, nil, "", "", []byte("ek"), nil,
		false, false, false, nil, nil, nil, "", nil, "", nil, "", "old", 1, 1, nil)
	old.do(oldChanged)
	within(t, soon, func() bool {
		groups, err := s.Groups(ctx, testScope, attest.TypeTPM)
		scope, err2 := s.Scope(ctx, testScope)
		linked, err3 := s.Linked(ctx, testScope)
		return err == nil && err2 == nil && err3 == nil && len(groups) == 2 && scope.Allocation == "static" && len(linked) == 2
	})

	// Telemetry that either keeps is behind what the other kept, and either reads it.
	oldAppend := func() {
		t.Helper()
		old.do(oldInsertMessages, 1, []string{"hub.example"}, []string{"pump-1"}, []int64{1}, []any{`{"message-source":"Telemetry"}`}, []any{nil}, [][]byte{[]byte("old")})
		old.do(oldTellMessages)
	}
	oldAppend()
	kept := &hub.Message{Hub: "hub.example", DeviceID: "pump-2", Enqueued: time.Now(), Properties: map[string]string{"line": "1"}}
	if err := s.Append(ctx, []*hub.Message{kept}); err != nil || kept.Sequence != 2 {
		t.Errorf("behind an old server's message: %d, %v", kept.Sequence, err)
	}
	oldAppend()
	messages, err := s.Read(ctx, "hub.example", 0, 10)
	if err != nil || len(messages) != 3 || messages[0].System["message-source"] != "Telemetry" || string(messages[2].Body) != "old" {
		t.Errorf("the messages of both: %v, %v", messages, err)
	}
	if n := old.do(oldSelectMessages, "hub.example", 0, 10); n != 3 {
		t.Errorf("an old server reads %d messages of 3", n)
	}
	if n := old.do(oldDeleteMessages, 2, 1000); n != 2 {
		t.Errorf("an old server removes %d old messages of 2", n)
	}

	// And the other way round.
	if err := s.PutScope(ctx, provision.Scope{ID: testScope, Allocation: "hashed", Hosts: []string{"dps-2.example"}, SharedKeys: provision.RefuseSharedKeys}); err != nil {
		t.Fatal(err)
	}
	putGroup(t, s, "new")
	if old.do(oldSelectScope, string(testScope)) != 1 || old.do(oldLinked, string(testScope)) != 2 || old.do(oldSelectGroups, string(testScope), "tpm") != 2 {
		t.Error("an old server does not find what a new one wrote")
	}
	old.do(oldPutScope, string(testScope), "hashed")
	old.do(oldChanged)
	if scope, err := s.Scope(ctx, testScope); err != nil || len(scope.Hosts) != 1 || scope.SharedKeys != provision.RefuseSharedKeys {
		t.Errorf("an old server's write to a scope takes what it does not know: %+v, %v", scope, err)
	}
}

func keys(records []*provision.Registration) (all []string) {
	for _, r := range records {
		all = append(all, fmt.Sprint(r.Key))
	}
	return all
}
