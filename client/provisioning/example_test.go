package provisioning_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/provisioning"
	"github.com/berth-iot/berth/device"
	"github.com/berth-iot/berth/hsm/tpm2"
)

// A device with a symmetric key asks for its home.
func Example() {
	host, roots := exampleService() // "global.azure-devices-provisioning.net" and nil for Azure

	key, err := device.ParseSymmetricKey("ZGV2aWNlIGtleSwgMzIgYnl0ZXMsIG5vdCBzZWNyZXQ=")
	if err != nil {
		log.Fatal(err)
	}
	c, err := provisioning.New(provisioning.Config{
		Host:           host,
		IDScope:        "0ne00111111",
		RegistrationID: "pump-7",
		Credential:     client.SymmetricKey(key),
		HTTP:           client.HTTP{RootCAs: roots},
	})
	if err != nil {
		log.Fatal(err)
	}
	home, err := c.Register(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s is at home at %s (%s)\n", home.DeviceID, home.Hub, home.Substatus)
	// Output: pump-7 is at home at contoso.azure-devices.net (initialAssignment)
}

// A device with a TPM 2.0 needs no name: it is derived from the endorsement
// key. The trace shows where the time goes.
func Example_tpm() {
	ctx := context.Background()
	chip, err := tpm2.Open(ctx, "/dev/tpmrm0")
	if err != nil {
		log.Fatal(err)
	}
	defer chip.Close()
	c, err := provisioning.New(provisioning.Config{
		Host:       "global.azure-devices-provisioning.net",
		IDScope:    "0ne00111111",
		Credential: client.TPM(chip),
		Trace: &provisioning.Trace{Done: func(step provisioning.Step, took time.Duration, err error) {
			log.Printf("%-22s %s", step, took)
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	home, err := c.Register(ctx)
	if err != nil {
		log.Fatal(err)
	}
	log.Println("at home at", home.Hub)
}

// The two ways of being refused: at once, with a [client.Error], or after the
// service took the registration in, with an [Error].
func ExampleClient_Register_refused() {
	host, roots := exampleService()
	key, err := device.ParseSymmetricKey("ZGV2aWNlIGtleSwgMzIgYnl0ZXMsIG5vdCBzZWNyZXQ=")
	if err != nil {
		log.Fatal(err)
	}
	c, err := provisioning.New(provisioning.Config{
		Host:           host,
		IDScope:        "0ne00111111",
		RegistrationID: "stranger",
		Credential:     client.SymmetricKey(key),
		HTTP:           client.HTTP{RootCAs: roots},
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = c.Register(context.Background())
	if refused, ok := errors.AsType[*client.Error](err); ok {
		fmt.Println("refused at once:", refused.Code, refused.Message)
	}
	if turnedDown, ok := errors.AsType[*provisioning.Error](err); ok {
		fmt.Println("turned down:", turnedDown.Status)
	}
	// Output: refused at once: 404201 Enrollment not found
}

// The factory derives each device's key from the enrollment group's.
func ExampleDeriveDeviceKey() {
	group, err := device.ParseSymmetricKey("8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==")
	if err != nil {
		log.Fatal(err)
	}
	key := provisioning.DeriveDeviceKey(group, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6")
	fmt.Println(key) // a key does not show by accident
	fmt.Println(key.Base64())
	// Output:
	// [secret]
	// Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=
}

// exampleService is a provisioning service that knows pump-7 and nobody else.
// It runs until the program ends.
func exampleService() (host string, roots *x509.CertPool) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if r.URL.Path != "/0ne00111111/registrations/pump-7/register" {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, `{"errorCode":404201,"trackingId":"4d1c","message":"Enrollment not found"}`)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"operationId":"5.316aac5bdc130deb.b1e02da8","status":"assigned","registrationState":{
			"registrationId":"pump-7","status":"assigned","substatus":"initialAssignment",
			"assignedHub":"contoso.azure-devices.net","deviceId":"pump-7"}}`)
	}))
	roots = x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return srv.Listener.Addr().String(), roots
}
