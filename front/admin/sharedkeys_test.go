package admin

import (
	"testing"

	"github.com/berth-iot/berth/access"
	"github.com/berth-iot/berth/attest"
	"github.com/berth-iot/berth/enroll"
	"github.com/berth-iot/berth/errs"
)

func TestSharedKeys(t *testing.T) {
	s := start(t)
	const path = "/berth/v1/sharedKeys"
	s.want("GET", path, "", 200, `{"groups":[],"more":false}`)
	shared := key(t, "AAECAwQFBgcICQoLDA0ODw==")
	for _, id := range []string{"pump-7", "pump-8"} {
		e := &enroll.Entry{Scope: scope, Kind: enroll.Individual, ID: id, Attestation: attest.Mechanism{
			Type: attest.TypeSymmetricKey, SymmetricKey: &attest.SymmetricKeys{Primary: shared}}}
		if _, err := s.enroller.Put(t.Context(), access.Caller{Rights: access.AllProvisioning}, e, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.want("GET", path, "", 200, `{"groups":[["pump-7","pump-8"]],"more":false}`)
	if status, answer := s.send("GET", path, "", token(s.policy("reader", access.EnrollmentRead))); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
	s.refuses("GET", path, "", token(s.policy("config", access.ServiceConfig)), 401, errs.Denied)
}
