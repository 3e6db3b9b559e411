'use strict';
// Certificates, made by the openssl program.

const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { execFileSync } = require('node:child_process');
const { scratch } = require('./berth');

const openssl = (...args) => execFileSync('openssl', args, { stdio: ['ignore', 'pipe', 'pipe'] }).toString();

// An issued certificate: cert and key are PEM, file the base of their names.
function read(file) {
  return { cert: fs.readFileSync(file + '.pem', 'utf8'), key: fs.readFileSync(file + '.key', 'utf8'), file };
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

// selfSigned makes a certificate that nobody else vouches for.
function selfSigned(name, { ca = false } = {}) {
  const file = path.join(scratch, name);
  openssl('req', '-x509', ...newKey, '-days', '2', '-subj', '/CN=' + name, '-keyout', file + '.key', '-out', file + '.pem',
    '-addext', ca ? 'keyUsage=critical,keyCertSign' : 'extendedKeyUsage=clientAuth');
  return read(file);
}

// issue makes a certificate that issuer vouches for.
function issue(name, issuer, { ca = false } = {}) {
  const file = path.join(scratch, name);
  openssl('req', ...newKey, '-subj', '/CN=' + name, '-keyout', file + '.key', '-out', file + '.csr');
  fs.writeFileSync(file + '.ext', ca
    ? 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n'
    : 'basicConstraints=critical,CA:FALSE\nextendedKeyUsage=clientAuth\n');
  openssl('x509', '-req', '-in', file + '.csr', '-CA', issuer.file + '.pem', '-CAkey', issuer.file + '.key',
    '-set_serial', '0x' + crypto.randomBytes(8).toString('hex'), '-days', '2', '-extfile', file + '.ext', '-out', file + '.pem');
  return read(file);
}

// thumbprint is the hash of the certificate, in upper-case hexadecimal.
const thumbprint = ({ file }, hash) =>
  openssl('x509', '-in', file + '.pem', '-noout', '-fingerprint', '-' + hash).trim().split('=')[1].replaceAll(':', '');

module.exports = { selfSigned, issue, thumbprint };
