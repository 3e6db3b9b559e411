package service_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/service"
	"github.com/berth-iot/berth/wire/dpsjson"
)

// An operator's program lets a TPM device in and looks who else may.
func Example() {
	connectionString, roots := exampleService() // from a file with tight permissions, and nil for Azure
	ctx := context.Background()

	c, err := service.New(connectionString, client.HTTP{RootCAs: roots})
	if err != nil {
		log.Fatal(err)
	}
	_, err = c.CreateEnrollment(ctx, dpsjson.IndividualEnrollment{
		RegistrationID: "pump-7",
		Attestation:    &dpsjson.AttestationMechanism{Type: dpsjson.AttestationTPM, TPM: &dpsjson.TPMAttestation{EndorsementKey: []byte("…")}},
	})
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == http.StatusConflict {
		fmt.Println("it is enrolled already")
	} else if err != nil {
		log.Fatal(err)
	}
	for e, err := range c.Enrollments(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.RegistrationID, e.Attestation.Type)
	}
	// Output:
	// it is enrolled already
	// pump-7 tpm
	// pump-8 symmetricKey
}

// exampleService is a provisioning service with two enrollments. It runs until
// the program ends.
func exampleService() (connectionString string, roots *x509.CertPool) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusConflict)
			io.WriteString(w, `{"errorCode":409201,"message":"Enrollment already exists."}`)
			return
		}
		io.WriteString(w, `[{"registrationId":"pump-7","attestation":{"type":"tpm","tpm":{"endorsementKey":"4oCm"}}},
			{"registrationId":"pump-8","attestation":{"type":"symmetricKey"}}]`)
	}))
	roots = x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return "HostName=" + srv.Listener.Addr().String() + ";SharedAccessKeyName=owner;SharedAccessKey=AAECAwQFBgcICQoLDA0ODw==", roots
}
