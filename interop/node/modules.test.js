'use strict';
// Modules: an operator gives a device some, and each has a connection, a twin and
// methods of its own.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { Client: ServiceClient, Registry } = require('azure-iothub');
const { Message, ModuleClient } = require('azure-iot-device');
const berth = require('./lib/berth');
const { wires } = require('./lib/wires');

const registry = Registry.fromConnectionString(berth.hubConnection);
const operator = ServiceClient.fromConnectionString(berth.hubConnection);
const body = async (call) => (await call).responseBody;
const refusedWith = (status) => (err) => (err.response?.statusCode ?? err.cause?.response?.statusCode) === status;

// keys are what an operator may choose for a device, or leave to the hub.
const keys = (filling) => ({ type: 'sas', symmetricKey: { primaryKey: Buffer.alloc(32, filling).toString('base64'), secondaryKey: Buffer.alloc(32, filling + 1).toString('base64') } });

test('a device\'s modules are added, read, changed and removed', async () => {
  const deviceId = berth.unique('modules');
  await registry.create({ deviceId });
  const [moduleId, other] = ['camera', 'lock'];
  const added = await body(registry.addModule({ deviceId, moduleId, managedBy: 'operator' }));
  assert.deepEqual([added.deviceId, added.moduleId, added.managedBy, added.authentication.type], [deviceId, moduleId, 'operator', 'sas']);
  await assert.rejects(registry.addModule({ deviceId, moduleId }), refusedWith(409));
  await registry.addModule({ deviceId, moduleId: other, authentication: keys(3) });
  assert.deepEqual((await body(registry.getModulesOnDevice(deviceId))).map((m) => m.moduleId).sort(), [moduleId, other]);

  const read = await body(registry.getModule(deviceId, moduleId));
  assert.deepEqual(read.authentication.symmetricKey, added.authentication.symmetricKey);
  const updated = await body(registry.updateModule({ ...read, managedBy: 'nobody' }, true));
  assert.equal(updated.managedBy, 'nobody');
  await assert.rejects(registry.updateModule({ ...read, managedBy: 'again' }, false), refusedWith(412));

  await registry.removeModule(deviceId, moduleId);
  await assert.rejects(registry.getModule(deviceId, moduleId), refusedWith(404));
  assert.deepEqual((await body(registry.getModulesOnDevice(deviceId))).map((m) => m.moduleId), [other]);
  await registry.delete(deviceId);
  await assert.rejects(registry.getModule(deviceId, other), refusedWith(404));
});

test('a module has a twin of its own, which changes only as it was seen', async () => {
  const deviceId = berth.unique('moduletwin');
  await registry.create({ deviceId });
  await registry.addModule({ deviceId, moduleId: 'camera' });
  const twin = await body(registry.getModuleTwin(deviceId, 'camera'));
  assert.deepEqual([twin.deviceId, twin.moduleId], [deviceId, 'camera']);
  const stale = await body(registry.getModuleTwin(deviceId, 'camera'));
  const { result: changed } = await twin.update({ tags: { lens: 'wide' }, properties: { desired: { zoom: 2 } } });
  assert.deepEqual([changed.tags.lens, changed.properties.desired.zoom], ['wide', 2]);
  await assert.rejects(stale.update({ tags: { lens: 'none' } }), refusedWith(412));
  assert.equal((await body(registry.getTwin(deviceId))).properties.desired.zoom, undefined);
});

// camera is a module with a key that the hub made, and a client for it.
async function camera(wire, what) {
  const deviceId = berth.unique(`${what}-${wire.short}`);
  await registry.create({ deviceId });
  const { authentication } = await body(registry.addModule({ deviceId, moduleId: 'camera' }));
  const key = authentication.symmetricKey.primaryKey;
  const client = ModuleClient.fromConnectionString(`HostName=${berth.hub};DeviceId=${deviceId};ModuleId=camera;SharedAccessKey=${key}`, wire.Hub);
  return { deviceId, client };
}

for (const wire of wires) {
  test(`${wire.name}: what a module sends is at the hub under its name, with all properties`, async () => {
    const { deviceId, client } = await camera(wire, 'events');
    const message = new Message('a picture');
    message.messageId = 'm 1';
    message.contentType = 'text/plain';
    message.contentEncoding = 'utf-8';
    message.properties.add('alarm', 'false');
    await client.open();
    await client.sendEvent(message);
    await client.sendOutputEvent('pictures', new Message('another picture'));
    await client.close();
    const heard = await berth.messages(deviceId);
    assert.deepEqual(heard.map((m) => m.body), ['a picture', 'another picture']);
    assert.deepEqual(heard[0].properties, { alarm: 'false' });
    for (const { systemProperties: system } of heard) {
      assert.deepEqual([system['connection-device-id'], system['connection-module-id']], [deviceId, 'camera']);
    }
    assert.deepEqual([heard[0].systemProperties['message-id'], heard[0].systemProperties['content-type']], ['m 1', 'text/plain']);
    assert.equal(heard[1].systemProperties['output-name'], 'pictures');
  });

  test(`${wire.name}: a module reads its twin, reports, and hears what its operator desires of it`, async (t) => {
    const { deviceId, client } = await camera(wire, 'twin');
    await client.open();
    t.after(() => client.close());
    const twin = await client.getTwin();
    assert.equal(twin.properties.desired.$version, 1);
    let zoom;
    twin.on('properties.desired.zoom', (value) => { zoom = value; });
    await new Promise((resolve, reject) => { twin.properties.reported.update({ lens: 'wide' }, (err) => (err ? reject(err) : resolve())); });
    const seen = await body(registry.getModuleTwin(deviceId, 'camera'));
    assert.equal(seen.properties.reported.lens, 'wide');
    assert.equal(seen.connectionState, 'Connected');
    await registry.updateModuleTwin(deviceId, 'camera', { properties: { desired: { zoom: 4 } } }, '*');
    await berth.until('it hears', () => zoom === 4);
    assert.equal((await body(registry.getTwin(deviceId))).properties.reported.lens, undefined);
  });

  test(`${wire.name}: an operator calls a method of a module, and not of its device`, async (t) => {
    const { deviceId, client } = await camera(wire, 'method');
    const call = { methodName: 'shoot', payload: { count: 2 }, responseTimeoutInSeconds: 10, connectTimeoutInSeconds: 0 };
    await assert.rejects(operator.invokeDeviceMethod(deviceId, 'camera', call), refusedWith(404));
    await client.open();
    t.after(() => client.close());
    client.onMethod('shoot', (request, response) => response.send(200, { shot: request.payload.count }, () => {}));
    await new Promise((resolve, reject) => { client._enableMethods((err) => (err ? reject(err) : resolve())); });
    const { result } = await operator.invokeDeviceMethod(deviceId, 'camera', call);
    assert.deepEqual(result, { status: 200, payload: { shot: 2 } });
    await assert.rejects(operator.invokeDeviceMethod(deviceId, call), refusedWith(404));
  });
}
