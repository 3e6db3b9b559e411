package hub_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/hub"
	"github.com/berth-iot/berth/device"
)

// A device that knows its hub sends a measurement. After a registration, Host
// and DeviceID come from the provisioning.Assignment.
func ExampleClient_Send() {
	host, roots := exampleHub() // "contoso.azure-devices.net" and nil for Azure

	key, err := device.ParseSymmetricKey("ZGV2aWNlIGtleSwgMzIgYnl0ZXMsIG5vdCBzZWNyZXQ=")
	if err != nil {
		log.Fatal(err)
	}
	h, err := hub.New(hub.Config{
		Host:       host,
		DeviceID:   "pump-7",
		Credential: client.SymmetricKey(key),
		HTTP:       client.HTTP{RootCAs: roots},
	})
	if err != nil {
		log.Fatal(err)
	}
	err = h.Send(context.Background(), hub.Message{
		Body:            []byte(`{"pressure":4.2}`),
		ContentType:     "application/json",
		ContentEncoding: "utf-8",
		Properties:      map[string]string{"alert": "false"},
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: the hub received {"pressure":4.2}, alert false
}

// exampleHub is a hub that prints what it is told. It runs until the program
// ends.
func exampleHub() (host string, roots *x509.CertPool) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("the hub received %s, alert %s\n", body, r.Header.Get("iothub-app-alert"))
		w.WriteHeader(http.StatusNoContent)
	}))
	roots = x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return srv.Listener.Addr().String(), roots
}
