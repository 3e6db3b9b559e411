'use strict';
// An operator's configurations at the hub: each says what devices are to have that
// a condition finds.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { Registry } = require('azure-iothub');
const berth = require('./lib/berth');

const registry = Registry.fromConnectionString(berth.hubConnection);
const body = async (call) => (await call).responseBody;
const refusedWith = (status) => (err) => (err.response?.statusCode ?? err.cause?.response?.statusCode) === status;

// configuration sets the rate of the devices of a site.
const configuration = (id, site, rate) => ({
  id, schemaVersion: '1.0', priority: 10, labels: { owner: 'operator' },
  content: { deviceContent: { 'properties.desired.rate': rate } },
  targetCondition: `tags.site = '${site}'`,
  metrics: { queries: { fast: `SELECT deviceId FROM devices WHERE configurations.[[${id}]].status = 'Applied' AND properties.reported.rate = ${rate}` } },
});

test('a configuration is added, read, listed, changed only as it was seen, and removed', async () => {
  const id = berth.unique('life');
  const wanted = configuration(id, 'nowhere', 5);
  const added = await body(registry.addConfiguration(wanted));
  const read = await body(registry.getConfiguration(id));
  for (const member of ['id', 'schemaVersion', 'priority', 'labels', 'targetCondition']) assert.deepEqual(read[member], wanted[member], member);
  assert.deepEqual(read.content.deviceContent, wanted.content.deviceContent);
  assert.deepEqual(read.metrics.queries, wanted.metrics.queries);
  assert.equal(read.etag, added.etag);
  await assert.rejects(registry.addConfiguration(wanted), refusedWith(409));
  assert.ok((await body(registry.getConfigurations())).some((c) => c.id === id));

  const changed = await body(registry.updateConfiguration({ ...read, priority: 11 }));
  assert.equal(changed.priority, 11);
  await assert.rejects(registry.updateConfiguration({ ...read, priority: 12 }), refusedWith(412));
  assert.equal((await body(registry.updateConfiguration({ ...read, priority: 13 }, true))).priority, 13);
  await registry.removeConfiguration(id);
  await assert.rejects(registry.getConfiguration(id), refusedWith(404));
});

test('a configuration reaches the devices that its condition finds, and counts them', async (t) => {
  const [id, site] = [berth.unique('reach'), berth.unique('site')];
  const [inside, outside] = [berth.unique('inside'), berth.unique('outside')];
  for (const deviceId of [inside, outside]) await registry.create({ deviceId });
  await registry.updateTwin(inside, { tags: { site } }, '*');
  await registry.addConfiguration(configuration(id, site, 7));
  t.after(() => registry.removeConfiguration(id));
  const desired = async (deviceId) => (await body(registry.getTwin(deviceId))).properties.desired;
  await berth.until('it is at the device', async () => (await desired(inside)).rate === 7);
  await berth.until('it is counted', async () => {
    const { systemMetrics } = await body(registry.getConfiguration(id));
    return systemMetrics.results.targetedCount === 1 && systemMetrics.results.appliedCount === 1;
  });
  assert.equal((await body(registry.getConfiguration(id))).metrics.results.fast, 0);
  assert.equal((await desired(outside)).rate, undefined);
  await registry.updateTwin(outside, { tags: { site } }, '*');
  await berth.until('it is at a device that comes later', async () => (await desired(outside)).rate === 7);
});

test('an operator gives one IoT Edge device what it is to run', async () => {
  const deviceId = berth.unique('edge');
  await registry.create({ deviceId, capabilities: { iotEdge: true } });
  const agent = { schemaVersion: '1.1', runtime: { type: 'docker', settings: {} }, systemModules: {}, modules: { camera: { type: 'docker', settings: { image: 'camera' } } } };
  await registry.applyConfigurationContentOnDevice(deviceId, {
    modulesContent: {
      $edgeAgent: { 'properties.desired': agent },
      $edgeHub: { 'properties.desired': { schemaVersion: '1.1', routes: {}, storeAndForwardConfiguration: { timeToLiveSecs: 7200 } } },
      camera: { 'properties.desired': { zoom: 2 } },
    },
  });
  const camera = await body(registry.getModuleTwin(deviceId, 'camera'));
  assert.equal(camera.properties.desired.zoom, 2);
  const { properties } = await body(registry.getModuleTwin(deviceId, '$edgeAgent'));
  assert.equal(properties.desired.modules.camera.settings.image, 'camera');
  assert.equal((await body(registry.getModule(deviceId, 'camera'))).managedBy, 'iotEdge');
});
