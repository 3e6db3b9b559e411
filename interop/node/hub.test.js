'use strict';
// The life of a device on its hub, over every wire on which it can stay connected
// and with every credential: telemetry, twin, direct methods, messages to the
// device, and a second connection.

const assert = require('node:assert/strict');
const events = require('node:events');
const net = require('node:net');
const { test } = require('node:test');
const { Client: ServiceClient, Registry } = require('azure-iothub');
const { NoRetry } = require('azure-iot-common');
const { Message } = require('azure-iot-device');
const { Http } = require('azure-iot-device-http');
const berth = require('./lib/berth');
const { assertHeard, clientWithKey, clientWithCertificate } = require('./lib/devices');
const { selfSigned, issue } = require('./lib/openssl');
const { wires, kinds, provisioned } = require('./lib/wires');

const registry = Registry.fromConnectionString(berth.hubConnection);
const operator = ServiceClient.fromConnectionString(berth.hubConnection);

// desired changes the twin of a device as an operator does.
const desired = (deviceId, properties) => registry.updateTwin(deviceId, { properties: { desired: properties } }, '*');
const report = (twin, properties) => new Promise((resolve, reject) => {
  twin.properties.reported.update(properties, (err) => (err ? reject(err) : resolve()));
});
const reboot = { methodName: 'reboot', payload: { in: 5 }, responseTimeoutInSeconds: 10, connectTimeoutInSeconds: 0 };

// callable has a client answer its operator, and returns when the hub knows of it.
async function callable(client) {
  client.onDeviceMethod('reboot', (request, response) => response.send(207, { heard: request.payload }, () => {}));
  await new Promise((resolve, reject) => { client._enableMethods((err) => (err ? reject(err) : resolve())); });
}

// listening collects messages to the device, and completes each.
function listening(client) {
  const got = [];
  client.on('message', async (message) => {
    await client.complete(message);
    got.push(message);
  });
  return got;
}
const pending = async (deviceId) => (await registry.get(deviceId)).responseBody.cloudToDeviceMessageCount;

for (const kind of kinds) {
  test(`${kind.name}: a device registers, and its message is at its hub with all properties`, async () => {
    const device = await provisioned(kind, 'telemetry');
    await assertHeard(device.client(), device.id, kind.credential.authType);
  });

  test(`${kind.name}: a device reads its twin, and its operator sees what it reports`, async (t) => {
    const device = await provisioned(kind, 'report', { initialTwin: { properties: { desired: { interval: 30 } } } });
    const client = device.client();
    await client.open();
    t.after(() => client.close());
    const twin = await client.getTwin();
    assert.deepEqual(twin.properties.desired, { interval: 30, $version: 1 });

    await report(twin, { firmware: '1.2', net: { mac: '00:11' } });
    await report(twin, { net: { mac: null, ip: '10.0.0.1' } });
    const { responseBody: seen } = await registry.getTwin(device.id);
    assert.deepEqual([seen.properties.reported.firmware, seen.properties.reported.net], ['1.2', { ip: '10.0.0.1' }]);
    assert.equal(seen.connectionState, 'Connected');
    await assert.rejects(report(twin, { big: 'x'.repeat(40000) }), 'reported properties beyond the limit were taken');
  });

  test(`${kind.name}: a device hears what its operator changes of its desired properties`, async (t) => {
    const device = await provisioned(kind, 'desired', { initialTwin: { properties: { desired: { interval: 30 } } } });
    const client = device.client();
    await client.open();
    t.after(() => client.close());
    const twin = await client.getTwin();
    const changes = [];
    const told = new events.EventEmitter();
    const first = events.once(told, 'change'); // the whole of it, to begin with
    twin.on('properties.desired', (delta) => { changes.push(delta); told.emit('change'); });
    await first;
    let change = events.once(told, 'change');
    await desired(device.id, { interval: 5, limits: { high: 80 } });
    await change;
    assert.deepEqual(changes.at(-1), { interval: 5, limits: { high: 80 }, $version: 2 });
    change = events.once(told, 'change');
    await desired(device.id, { limits: null });
    await change;
    assert.deepEqual(changes.at(-1), { limits: null, $version: 3 });
    assert.equal(twin.properties.desired.limits, undefined);
  });

  test(`${kind.name}: an operator calls a method of a device, and hears when it is not there`, async (t) => {
    const device = await provisioned(kind, 'method');
    await assert.rejects(operator.invokeDeviceMethod(device.id, reboot), (err) => err.name === 'DeviceNotFoundError' || err.response?.statusCode === 404);
    const client = device.client();
    await client.open();
    t.after(() => client.close());
    await callable(client);
    const { result } = await operator.invokeDeviceMethod(device.id, reboot);
    assert.deepEqual(result, { status: 207, payload: { heard: { in: 5 } } });
  });

  test(`${kind.name}: a device receives and completes what waited for it and what is sent with berth hub send, with properties`, async (t) => {
    const device = await provisioned(kind, 'bound');
    await berth.send(device.id, { body: 'waited', 'message-id': 'm 1/2', 'content-type': 'text/plain', ack: 'full', property: ['zone=no & no=yes/+%', 'Unit=a b'] });
    const client = device.client();
    await client.open();
    t.after(() => client.close());
    const got = listening(client);
    await berth.until('the first message came', () => got.length === 1);
    assert.equal(got[0].data.toString(), 'waited');
    assert.deepEqual([got[0].messageId, got[0].contentType, got[0].properties.getValue('iothub-ack')], ['m 1/2', 'text/plain', 'full']);
    assert.equal(got[0].properties.getValue('zone'), 'no & no=yes/+%');
    assert.equal(got[0].properties.getValue('Unit'), 'a b');
    await berth.send(device.id, { body: 'at once' });
    await berth.until('the second message came', () => got.length === 2);
    assert.equal(got[1].data.toString(), 'at once');
    await berth.until('both are completed', async () => await pending(device.id) === 0);
    assert.equal(got.length, 2);
  });

  test(`${kind.name}: a second connection of a device takes over, the first is closed, and no other device notices`, async (t) => {
    const device = await provisioned(kind, 'taken');
    const bystander = await provisioned(kind, 'bystander');
    const [first, second, other] = [device.client({ impatient: true }), device.client({ impatient: true }), bystander.client({ impatient: true })];
    t.after(() => Promise.all([second.close(), other.close()]));
    const lost = [];
    for (const [name, client] of Object.entries({ first, second, other })) client.on('disconnect', () => lost.push(name));
    await other.open();
    await callable(other);
    await first.open();
    await first.sendEvent(new Message('of the first'));
    await second.open();
    await berth.until('the first connection is closed', () => lost.length > 0);
    await callable(second);
    await second.sendEvent(new Message('of the second'));
    const { result } = await operator.invokeDeviceMethod(device.id, reboot);
    assert.equal(result.status, 207);
    await other.sendEvent(new Message('of the bystander'));
    assert.equal((await operator.invokeDeviceMethod(bystander.id, reboot)).result.status, 207);
    assert.deepEqual((await berth.messages(device.id)).map((m) => m.body), ['of the first', 'of the second']);
    assert.deepEqual(lost, ['first']);
  });
}

for (const kind of kinds.filter(({ credential }) => credential.short === 'key')) {
  test(`${kind.wire.name}: the model that a device says it follows is in its twin`, async (t) => {
    const device = await provisioned(kind, 'model');
    const client = device.client();
    await client.setOptions({ modelId: 'dtmi:example:Pump;1' });
    await client.open();
    t.after(() => client.close());
    assert.equal((await registry.getTwin(device.id)).responseBody.modelId, 'dtmi:example:Pump;1');
  });
}

test('a device whose certificate a CA vouches for that its operator proved comes to its hub on every wire', async () => {
  const root = selfSigned(berth.unique('root'), { ca: true });
  const stranger = selfSigned(berth.unique('stranger'), { ca: true });
  await berth.command(['ca', 'prove', berth.unique('ca')], { key: root.file + '.key', certificate: root.file + '.pem' });
  for (const Wire of [Http, ...wires.map((wire) => wire.Hub)]) {
    const deviceId = berth.unique('vouched');
    const { responseBody } = await registry.create({ deviceId, authentication: { type: 'certificateAuthority' } });
    assert.equal(responseBody.authentication.type, 'certificateAuthority');
    const state = { deviceId, assignedHub: berth.hub };
    const foreign = clientWithCertificate(state, issue(deviceId, stranger), Wire);
    foreign.setRetryPolicy(new NoRetry());
    await assert.rejects(foreign.open().then(() => foreign.sendEvent(new Message('let me in'))), (err) => err.name === 'UnauthorizedError');
    await assertHeard(clientWithCertificate(state, issue(deviceId, root), Wire), deviceId, 'x509');
  }
});

test('MQTT: a device whose connection is cut comes back by itself, hears its operator again and loses no message', async (t) => {
  const device = await provisioned(kinds[0], 'cut');

  // Between the device and its hub lies a network that can be cut.
  const open = new Set();
  const network = net.createServer((near) => {
    const far = net.connect(8883, berth.hub);
    for (const [one, other] of [[near, far], [far, near]]) {
      open.add(one);
      one.on('error', () => {});
      one.on('close', () => { open.delete(one); other.destroy(); });
      one.pipe(other);
    }
  });
  network.listen(0, '127.0.0.1');
  await events.once(network, 'listening');
  t.after(() => network.close());
  const client = clientWithKey({ ...device.state, assignedHub: `${berth.hub}:${network.address().port}` }, device.secret, wires[0].Hub);
  await client.open();
  t.after(() => client.close());
  const twin = await client.getTwin();
  let heard;
  twin.on('properties.desired.round', (round) => { heard = round; });

  for (let round = 1; round <= 3; round++) {
    for (const socket of open) socket.destroy();
    await client.sendEvent(new Message(`round ${round}`));
    let change = 0;
    await berth.until(`in round ${round} the device heard something`, async () => {
      await desired(device.id, { round: `${round}.${++change}` });
      await berth.sleep(100);
      return heard?.startsWith(`${round}.`);
    });
  }
  assert.deepEqual([...new Set((await berth.messages(device.id)).map((m) => m.body))], ['round 1', 'round 2', 'round 3']);
});
