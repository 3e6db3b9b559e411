'use strict';
// An operator's programs at the provisioning service.

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { promisify } = require('node:util');
const { ProvisioningServiceClient } = require('azure-iot-provisioning-service');
const berth = require('./lib/berth');
const { selfSigned, thumbprint } = require('./lib/openssl');
const { withKey } = require('./lib/devices');

const service = ProvisioningServiceClient.fromConnectionString(berth.serviceConnection);
const body = async (call) => (await call).responseBody;
const bulk = promisify(service.runBulkEnrollmentOperation).bind(service); // its promises never settle

const refusedWith = (status, errorCode) => (err) => {
  assert.equal(err.response.statusCode, status, err.responseBody);
  assert.equal(JSON.parse(err.responseBody).errorCode, errorCode);
  return true;
};

// pages reads a whole query, and checks what the service says about each page.
async function pages(query, type, size) {
  const all = [];
  do {
    // The SDK goes on by itself only for callers with a callback.
    const [items, response] = await new Promise((resolve, reject) => {
      query.next((err, ...page) => (err ? reject(err) : resolve(page)));
    });
    assert.equal(response.headers['x-ms-item-type'], type);
    assert.ok(items.length <= size, `a page of ${items.length} where ${size} were asked for`);
    all.push(items);
  } while (query.hasMoreResults);
  return all;
}

// The two kinds of enrollment have the same life; only the names differ.
const kinds = {
  'an individual enrollment': {
    id: 'registrationId', type: 'Enrollment',
    put: (e) => body(service.createOrUpdateIndividualEnrollment(e)), get: (id) => body(service.getIndividualEnrollment(id)),
    mechanism: (id) => body(service.getIndividualEnrollmentAttestationMechanism(id)),
    remove: (...args) => service.deleteIndividualEnrollment(...args), query: (...args) => service.createIndividualEnrollmentQuery(...args),
  },
  'an enrollment group': {
    id: 'enrollmentGroupId', type: 'EnrollmentGroup',
    put: (e) => body(service.createOrUpdateEnrollmentGroup(e)), get: (id) => body(service.getEnrollmentGroup(id)),
    mechanism: (id) => body(service.getEnrollmentGroupAttestationMechanism(id)),
    remove: (...args) => service.deleteEnrollmentGroup(...args), query: (...args) => service.createEnrollmentGroupQuery(...args),
  },
};

for (const [name, kind] of Object.entries(kinds)) {
  test(`${name} keeps everything it was created with`, async () => {
    const id = berth.unique('whole');
    const wanted = {
      [kind.id]: id,
      attestation: { type: 'symmetricKey' },
      capabilities: { iotEdge: true },
      initialTwin: { tags: { site: 'north', floor: 2 }, properties: { desired: { interval: 30, nested: { deep: [1, 2] } } } },
      provisioningStatus: 'enabled',
      reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: false },
      allocationPolicy: 'static',
      iotHubs: [berth.hub],
    };
    const created = await kind.put(wanted);
    const read = await kind.get(id);
    for (const member of Object.keys(wanted).filter((m) => m !== 'attestation')) {
      assert.deepEqual(created[member], wanted[member], member);
      assert.deepEqual(read[member], wanted[member], member);
    }
    assert.equal(read.etag, created.etag);
    assert.equal(read.createdDateTimeUtc, created.createdDateTimeUtc);
  });

  test(`keys of ${name} are made by the service, and shown only to who asks for them`, async () => {
    const id = berth.unique('keys');
    const created = await kind.put({ [kind.id]: id, attestation: { type: 'symmetricKey' } });
    const { primaryKey, secondaryKey } = created.attestation.symmetricKey;
    assert.equal(created.provisioningStatus, 'enabled');
    assert.notEqual(primaryKey, secondaryKey);
    assert.ok(Buffer.from(primaryKey, 'base64').length >= 32);
    assert.deepEqual((await kind.get(id)).attestation, { type: 'symmetricKey' });
    assert.deepEqual(await kind.mechanism(id), { type: 'symmetricKey', symmetricKey: { primaryKey, secondaryKey } });
  });

  test(`${name} is changed only by who saw it last`, async () => {
    const id = berth.unique('etag');
    const created = await kind.put({ [kind.id]: id, attestation: { type: 'symmetricKey' } });
    await assert.rejects(kind.put({ [kind.id]: id, attestation: { type: 'symmetricKey' } }), refusedWith(409, 409201));

    const read = await kind.get(id);
    const updated = await kind.put({ ...read, provisioningStatus: 'disabled' });
    assert.equal(updated.provisioningStatus, 'disabled');
    assert.equal(updated.createdDateTimeUtc, created.createdDateTimeUtc);
    assert.notEqual(updated.etag, read.etag);
    const { symmetricKey } = await kind.mechanism(id);
    assert.deepEqual(symmetricKey, created.attestation.symmetricKey, 'reading and writing back changed the keys');

    await assert.rejects(kind.put({ ...read, provisioningStatus: 'enabled' }), (err) => err.name === 'InvalidEtagError' && err.response.statusCode === 412);
    assert.equal((await kind.get(id)).provisioningStatus, 'disabled');
  });

  test(`${name} is deleted only as it was seen, and is gone then`, async () => {
    const id = berth.unique('gone');
    const created = await kind.put({ [kind.id]: id, attestation: { type: 'symmetricKey' } });
    const updated = await kind.put({ ...created, provisioningStatus: 'disabled' });
    await assert.rejects(kind.remove(created), (err) => err.name === 'InvalidEtagError');
    await kind.remove(updated);
    await assert.rejects(kind.get(id), refusedWith(404, 404201));
    await assert.rejects(kind.mechanism(id), refusedWith(404, 404201));
  });

  test(`a query finds every one of ${name}, page by page, without keys`, async () => {
    const wanted = [];
    for (let i = 0; i < 5; i++) {
      wanted.push(berth.unique('query'));
      await kind.put({ [kind.id]: wanted[i], attestation: { type: 'symmetricKey' } });
    }
    const found = await pages(kind.query({ query: 'SELECT * FROM enrollments' }, 2), kind.type, 2);
    assert.ok(found.length >= 3, `${found.length} pages`);
    const all = found.flat();
    assert.equal(new Set(all.map((e) => e[kind.id])).size, all.length, 'something came twice');
    for (const id of wanted) {
      const item = all.find((e) => e[kind.id] === id);
      assert.deepEqual(item.attestation, { type: 'symmetricKey' });
      assert.equal(item.registrationState, undefined);
    }
  });
}

test('an individual enrollment keeps a device ID and information about the device', async () => {
  const registrationId = berth.unique('information');
  const optionalDeviceInformation = { additionalProperties: { serial: 'A-1', batch: 7 } };
  await service.createOrUpdateIndividualEnrollment({ registrationId, deviceId: 'press-1', optionalDeviceInformation, attestation: { type: 'symmetricKey' } });
  const read = await body(service.getIndividualEnrollment(registrationId));
  assert.equal(read.deviceId, 'press-1');
  assert.deepEqual(read.optionalDeviceInformation, optionalDeviceInformation);
  assert.deepEqual(read.registrationState, { registrationId, status: 'unassigned' });
});

test('a certificate is shown by what it says, never whole, and writing that back keeps it', async () => {
  const registrationId = berth.unique('certificate');
  const certificate = selfSigned(registrationId);
  await service.createOrUpdateIndividualEnrollment({ registrationId, attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: certificate.cert } } } } });
  const read = await body(service.getIndividualEnrollment(registrationId));
  const { primary } = read.attestation.x509.clientCertificates;
  assert.equal(primary.certificate, undefined);
  assert.equal(primary.info.subjectName, 'CN=' + registrationId);
  assert.equal(primary.info.issuerName, 'CN=' + registrationId);
  assert.equal(primary.info.sha1Thumbprint, thumbprint(certificate, 'sha1'));
  assert.equal(primary.info.version, 3);
  const updated = await body(service.createOrUpdateIndividualEnrollment({ ...read, provisioningStatus: 'disabled' }));
  assert.deepEqual(updated.attestation.x509.clientCertificates.primary.info, primary.info);
});

test('bulk operations report each enrollment that could not be done', async () => {
  const [first, second] = [berth.unique('bulk'), berth.unique('bulk')];
  const enrollments = [first, second].map((registrationId) => ({ registrationId, attestation: { type: 'symmetricKey' } }));
  assert.deepEqual(await bulk({ mode: 'create', enrollments }), { isSuccessful: true, errors: [] });
  const again = await bulk({ mode: 'create', enrollments: [enrollments[0]] });
  assert.equal(again.isSuccessful, false);
  assert.deepEqual(again.errors.map((e) => [e.registrationId, e.errorCode]), [[first, 409201]]);
  assert.deepEqual(await bulk({ mode: 'delete', enrollments }), { isSuccessful: true, errors: [] });
  await assert.rejects(service.getIndividualEnrollment(second), refusedWith(404, 404201));
});

test('registration states are read, listed by group and deleted', async () => {
  const enrollmentGroupId = berth.unique('states');
  const { attestation } = await body(service.createOrUpdateEnrollmentGroup({ enrollmentGroupId, attestation: { type: 'symmetricKey' } }));
  const told = {};
  for (let i = 0; i < 3; i++) {
    const registrationId = berth.unique('state');
    told[registrationId] = await withKey(registrationId, berth.derivedKey(attestation.symmetricKey.primaryKey, registrationId)).register();
  }
  const query = () => service.createEnrollmentGroupDeviceRegistrationStateQuery({ query: '*' }, enrollmentGroupId, 2);
  const listed = (await pages(query(), 'DeviceRegistration', 2)).flat();
  assert.deepEqual(listed.map((s) => s.registrationId).sort(), Object.keys(told).sort());

  const [registrationId] = Object.keys(told);
  const state = await body(service.getDeviceRegistrationState(registrationId));
  for (const member of ['registrationId', 'deviceId', 'assignedHub', 'status', 'substatus', 'etag', 'createdDateTimeUtc', 'lastUpdatedDateTimeUtc']) {
    assert.equal(state[member], told[registrationId][member], member);
  }
  await assert.rejects(service.deleteDeviceRegistrationState(registrationId, 'ImFub3RoZXIi'), (err) => err.name === 'InvalidEtagError');
  await service.deleteDeviceRegistrationState(state);
  await assert.rejects(service.getDeviceRegistrationState(registrationId), (err) => err.response.statusCode === 404);
  assert.equal((await pages(query(), 'DeviceRegistration', 2)).flat().length, 2);
});

test('a wrong policy key is refused with 401', async () => {
  const wrong = berth.serviceConnection.replace(/SharedAccessKey=.*$/, 'SharedAccessKey=' + Buffer.alloc(32, 1).toString('base64'));
  await assert.rejects(ProvisioningServiceClient.fromConnectionString(wrong).getIndividualEnrollment('any'), (err) => {
    assert.equal(err.name, 'UnauthorizedError');
    return refusedWith(401, 401002)(err);
  });
});
