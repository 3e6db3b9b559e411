'use strict';
// An operator's programs at the hub: its identities, one by one and many at a time,
// its twins, its statistics and its queries.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { Registry } = require('azure-iothub');
const berth = require('./lib/berth');

const registry = Registry.fromConnectionString(berth.hubConnection);
const body = async (call) => (await call).responseBody;
const refusedWith = (status) => (err) => (err.response?.statusCode ?? err.cause?.response?.statusCode) === status;

// keys are what an operator may choose for a device, or leave to the hub.
const keys = (filling) => ({ type: 'sas', symmetricKey: { primaryKey: Buffer.alloc(32, filling).toString('base64'), secondaryKey: Buffer.alloc(32, filling + 1).toString('base64') } });

test('an operator creates, reads, disables and deletes a device', async () => {
  const deviceId = berth.unique('identity');
  const created = await body(registry.create({ deviceId }));
  assert.equal(created.status, 'enabled');
  assert.equal(created.authentication.type, 'sas');
  assert.notEqual(created.authentication.symmetricKey.primaryKey, created.authentication.symmetricKey.secondaryKey);
  await assert.rejects(registry.create({ deviceId }), refusedWith(409));

  const updated = await body(registry.update({ ...created, status: 'disabled', statusReason: 'lost' }));
  assert.equal(updated.status, 'disabled');
  const read = await body(registry.get(deviceId));
  assert.equal(read.status, 'disabled');
  assert.equal(read.statusReason, 'lost');
  assert.deepEqual(read.authentication.symmetricKey, created.authentication.symmetricKey);
  assert.equal(read.generationId, created.generationId);

  await registry.delete(deviceId);
  await assert.rejects(registry.get(deviceId), (err) => err.name === 'DeviceNotFoundError' && refusedWith(404)(err));
});

test('devices are listed and counted', async () => {
  const counted = () => body(registry.getRegistryStatistics());
  const before = await counted();
  const [on, off] = [berth.unique('counted'), berth.unique('counted')];
  await registry.create({ deviceId: on });
  await registry.create({ deviceId: off, status: 'disabled' });
  assert.deepEqual(await counted(), {
    totalDeviceCount: before.totalDeviceCount + 2,
    enabledDeviceCount: before.enabledDeviceCount + 1,
    disabledDeviceCount: before.disabledDeviceCount + 1,
  });
  const listed = (await body(registry.list())).map((d) => d.deviceId);
  assert.ok(listed.includes(on) && listed.includes(off));
});

test('an operator changes a device\'s twin only as it was seen', async () => {
  const deviceId = berth.unique('twin');
  await registry.create({ deviceId });
  const twin = await body(registry.getTwin(deviceId));
  const stale = await body(registry.getTwin(deviceId));
  const { result: changed } = await twin.update({ tags: { site: 'north' }, properties: { desired: { rate: 1, old: true } } });
  assert.deepEqual([changed.tags.site, changed.properties.desired.rate, changed.properties.desired.$version], ['north', 1, 2]);
  await assert.rejects(stale.update({ tags: { site: 'south' } }), (err) => err.name === 'InvalidEtagError' && refusedWith(412)(err));
  await stale.get();
  assert.equal(stale.etag, twin.etag);
  const { result: again } = await stale.update({ properties: { desired: { old: null } } });
  assert.deepEqual([again.tags.site, again.properties.desired.rate, again.properties.desired.old], ['north', 1, undefined]);
});

test('devices are added, changed and removed many at a time, and each that could not be is reported', async () => {
  const ids = [1, 2, 3].map(() => berth.unique('bulk'));
  const added = await body(registry.addDevices(ids.map((deviceId, i) => ({ deviceId, status: 'enabled', authentication: keys(i) }))));
  assert.equal(added.isSuccessful, true);
  assert.deepEqual(added.errors, []);
  const first = await body(registry.get(ids[0]));
  assert.deepEqual(first.authentication.symmetricKey, keys(0).symmetricKey);

  await assert.rejects(registry.addDevices([{ deviceId: ids[0], authentication: keys(9) }, { deviceId: berth.unique('bulk'), authentication: keys(9) }]), (err) => {
    const result = JSON.parse(err.responseBody);
    assert.equal(result.isSuccessful, false);
    assert.deepEqual(result.errors.map((e) => [e.deviceId, e.errorCode]), [[ids[0], 409001]]);
    return refusedWith(400)(err);
  });

  const changed = ids.map((deviceId, i) => ({ deviceId, status: 'disabled', authentication: keys(i) }));
  assert.equal((await body(registry.updateDevices(changed, true))).isSuccessful, true);
  assert.equal((await body(registry.get(ids[1]))).status, 'disabled');
  await assert.rejects(registry.updateDevices([{ ...changed[0], etag: 'bm90IGl0' }], false), refusedWith(400));

  assert.equal((await body(registry.removeDevices(ids.map((deviceId) => ({ deviceId })), true))).isSuccessful, true);
  await assert.rejects(registry.get(ids[2]), refusedWith(404));
});

test('a query finds the twins of devices page by page', async () => {
  const site = berth.unique('site');
  const ids = [...Array(5).keys()].map(() => berth.unique('found'));
  for (const [i, deviceId] of ids.entries()) {
    await registry.create({ deviceId });
    await registry.updateTwin(deviceId, { tags: { site }, properties: { desired: { floor: i } } }, '*');
  }
  const pages = async (sql, size, next) => {
    const query = registry.createQuery(sql, size);
    const found = [];
    do {
      const { result, message } = await query[next]();
      assert.ok(result.length <= size, `a page of ${result.length} where ${size} were asked for`);
      found.push({ items: result, type: message.headers['x-ms-item-type'] });
    } while (query.hasMoreResults);
    return found;
  };
  const twins = await pages(`SELECT * FROM devices WHERE tags.site = '${site}'`, 2, 'nextAsTwin');
  assert.ok(twins.length >= 3, `${twins.length} pages`);
  assert.ok(twins.every((page) => page.type === 'Twin'));
  const all = twins.flatMap((page) => page.items);
  assert.deepEqual(all.map((twin) => twin.deviceId).sort(), [...ids].sort());
  // What a query found is a twin like any other.
  const { result: changed } = await all[0].update({ tags: { seen: true } });
  assert.equal(changed.tags.seen, true);

  const raw = await pages(`SELECT deviceId AS name, properties.desired.floor AS floor FROM devices WHERE tags.site = '${site}' AND properties.desired.floor >= 3`, 100, 'next');
  assert.deepEqual(raw.map((page) => page.type), ['Raw']);
  assert.deepEqual(new Map(raw[0].items.map((r) => [r.name, r.floor])), new Map([[ids[3], 3], [ids[4], 4]]));
  const [{ items: [counted] }] = await pages(`SELECT COUNT() AS devices FROM devices WHERE tags.site = '${site}'`, 100, 'next');
  assert.equal(counted.devices, 5);
});

test('a query that is none is refused with 400', async () => {
  await assert.rejects(registry.createQuery('SELECT FROM WHERE').next(), refusedWith(400));
});
