// A reporter for node:test: one line for every claim that was proven or not,
// in the words of interop/run, and the whole error below those that were not.

// The SDKs' errors carry whole connections; what the server said is enough.
function explain(error) {
  const cause = error?.cause ?? error;
  return [cause?.stack ?? String(cause), cause?.responseBody].filter(Boolean).join('\n');
}

const claims = (data) => data.details?.type !== 'suite';
const indent = (text) => text.replace(/^/gm, '        ');

export default async function* report(source) {
  for await (const { type, data } of source) {
    if (type === 'test:pass' && claims(data)) {
      const skipped = data.skip !== undefined || data.todo !== undefined;
      yield `${skipped ? 'FAILED' : 'proven'}  ${data.name}${skipped ? ' (left out)' : ''}\n`;
    }
    if (type === 'test:fail' && claims(data)) {
      yield `FAILED  ${data.name}\n${indent(explain(data.details.error))}\n`;
    }
    if (type === 'test:fail' && !claims(data) && data.details.error?.failureType === 'hookFailed') {
      yield `FAILED  ${data.name}\n${indent(explain(data.details.error))}\n`;
    }
    if (type === 'test:stdout' || type === 'test:stderr') yield data.message;
  }
}
