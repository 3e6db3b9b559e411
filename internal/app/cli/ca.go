package cli

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-iot/berth/client"
	"github.com/berth-iot/berth/client/admin"
	"github.com/berth-iot/berth/pki"
	"github.com/berth-iot/berth/wire/dpsjson"
)

func newCA(t *terminal) *cobra.Command {
	c := parent("ca", "Keep CA certificates that groups go by", `CA certificates that the service keeps under a name. A group that names one lets in
every device whose certificate comes from that CA, so several groups can share it
and it is rolled and revoked in one place. Before that somebody proves to have the
CA's key, by letting it sign a code.`,
		`  berth ca prove line-1 --key ca.key --certificate ca.pem
  berth group create lines --ca-reference line-1
  berth ca list`)
	o := newOperator(t, c)
	c.AddCommand(newCAAdd(o), newCAProve(o), newCAList(o), newCAShow(o), newCACode(o), newCAVerify(o), newCARemove(o))
	return c
}

func newCAAdd(o *operator) *cobra.Command {
	var file string
	var verified, replace bool
	c := &cobra.Command{
		Use:   "add NAME --certificate FILE",
		Short: "Keep a CA certificate",
		Long: `Keep a CA certificate, root or intermediate, PEM. It lets nobody in before it is
verified: berth ca prove does that where the CA's key is at hand, berth ca code and
berth ca verify where it is not. --verified skips the proof, for who knows without
one whose CA it is.

With --replace another certificate takes the place of the one that has the name. It
is not verified either, and the groups that name it let nobody in until it is.`,
		Example: `  berth ca add line-1 --certificate ca.pem
  berth ca add line-2 --certificate ca.pem --verified
  berth ca add plant --certificate next-ca.pem --replace`,
		Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			certificate, err := o.readCA(file)
			if err != nil {
				return err
			}
			client, err := o.admin()
			if err != nil {
				return err
			}
			var skip *bool
			if verified {
				skip = &verified
			}
			etag := ""
			if replace {
				etag = "*"
			}
			kept, err := client.PutCACertificate(c.Context(), args[0], certificate.Raw, skip, etag)
			if err != nil {
				return explainCA(err, args[0])
			}
			if !o.json() && !kept.Properties.IsVerified {
				fmt.Fprintf(o.err, "It is not verified yet, and lets nobody in%s:\n  berth ca prove %s --key FILE --certificate %s\n\n", through(kept), kept.Name, file)
			}
			return o.showCA(kept)
		},
	}
	certificateFlag(c, &file, "PEM `file` with the CA's certificate")
	c.Flags().BoolVar(&verified, "verified", false, "take it without a proof that its key is yours")
	c.Flags().BoolVar(&replace, "replace", false, "put it in the place of the one that has the name")
	return c
}

// through names the groups that a CA certificate is for.
func through(c *dpsjson.CACertificate) string {
	if len(c.Properties.EnrollmentGroups) == 0 {
		return ""
	}
	return " through " + strings.Join(c.Properties.EnrollmentGroups, ", ")
}

func newCAProve(o *operator) *cobra.Command {
	var file, keyFile string
	c := &cobra.Command{
		Use:   "prove NAME --key FILE --certificate FILE",
		Short: "Keep a CA certificate, and prove that its key is yours",
		Long: `Keep a CA certificate under a name, unless it is kept already, and prove that its key
is at hand: the server draws a code, this command lets the key sign a certificate
with it, and the server looks at that. The key stays here.

Where the key is somewhere else, in a vault or an HSM, berth ca code asks for the
code and berth ca verify takes the certificate that was signed there.`,
		Example: `  berth ca prove line-1 --key ca.key --certificate ca.pem`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			ca, err := o.readIssuer(file, keyFile)
			if err != nil {
				return err
			}
			client, err := o.admin()
			if err != nil {
				return err
			}
			proved, err := prove(c.Context(), client, args[0], ca)
			if err != nil {
				return explainCA(err, args[0])
			}
			return o.showCA(proved)
		},
	}
	certificateFlag(c, &file, "PEM `file` with the CA's certificate")
	c.Flags().StringVar(&keyFile, "key", "", "PEM `file` with the CA's private key; - is standard input")
	return c
}

// prove keeps the CA's certificate under a name, unless it is there, and lets the
// CA sign what the server asks for.
func prove(ctx context.Context, server *admin.Client, name string, ca *pki.Issuer) (*dpsjson.CACertificate, error) {
	kept, err := server.CACertificate(ctx, name)
	if refused, ok := errors.AsType[*client.Error](err); ok && refused.Status == http.StatusNotFound {
		kept, err = server.PutCACertificate(ctx, name, ca.Certificate.Raw, nil, "")
	}
	switch {
	case err != nil:
		return nil, err
	case !bytes.Equal(kept.Properties.Certificate, ca.Certificate.Raw):
		return nil, fmt.Errorf("%s is another certificate, %s\nTo put this one in its place:\n  berth ca add %s --certificate FILE --replace", kept.Name, kept.Properties.SHA256Thumbprint, kept.Name)
	case kept.Properties.IsVerified:
		return kept, nil
	}
	asked, err := server.GenerateVerificationCode(ctx, name, kept.ETag)
	if err != nil {
		return nil, err
	}
	proof, err := ca.ProvePossession(asked.Properties.VerificationCode, time.Now(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return server.VerifyCACertificate(ctx, name, proof.Raw, asked.ETag)
}

func newCAList(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the CA certificates",
		Long:  `List the CA certificates that the service keeps, ordered by name.`,
		Example: `  berth ca list
  berth ca list -o json`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			kept, err := client.CACertificates(c.Context())
			if err != nil {
				return err
			}
			if o.json() {
				return o.printJSON(kept)
			}
			rows := [][]string{{"NAME", "VERIFIED", "EXPIRES", "SUBJECT", "GROUPS"}}
			for _, k := range kept {
				p := k.Properties
				rows = append(rows, []string{k.Name, yesNo(p.IsVerified), moment(dpsjson.Time(p.Expiry)), printable(p.Subject), strings.Join(p.EnrollmentGroups, ", ")})
			}
			return o.table(rows)
		},
	}
}

func newCAShow(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show one CA certificate",
		Long:  `Show one CA certificate, and the groups that name it. -o json has the certificate.`,
		Example: `  berth ca show plant
  berth ca show plant -o json`,
		Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			kept, err := client.CACertificate(c.Context(), args[0])
			if err != nil {
				return explainCA(err, args[0])
			}
			return o.showCA(kept)
		},
	}
}

func newCACode(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "code NAME",
		Short: "Ask for the code that proves a CA's key",
		Long: `Draw a code for a CA certificate, and print it. Who has the CA's key proves it with a
certificate that the CA signs and whose subject has the code as its common name:
any certificate, valid now. A new code voids the one before.`,
		Example: `  berth ca code plant`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			asked, err := client.GenerateVerificationCode(c.Context(), args[0], "")
			if err != nil {
				return explainCA(err, args[0])
			}
			if o.json() {
				return o.printJSON(asked)
			}
			fmt.Fprintf(o.err, `Where the CA's key is, with OpenSSL for one:
  openssl req -new -newkey rsa:2048 -nodes -keyout proof.key -out proof.csr -subj /CN=%s
  openssl x509 -req -in proof.csr -CA CA.pem -CAkey CA.key -CAcreateserial -days 1 -out proof.pem
and then:
  berth ca verify %s --certificate proof.pem

`, asked.Properties.VerificationCode, asked.Name)
			_, err = fmt.Fprintln(o.out, asked.Properties.VerificationCode)
			return err
		},
	}
}

func newCAVerify(o *operator) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "verify NAME --certificate FILE",
		Short: "Prove a CA's key with a certificate that it signed",
		Long: `Show the certificate, PEM, that the CA signed for the code of berth ca code. From then
on the CA's certificate lets devices in through the groups that name it.`,
		Example: `  berth ca verify plant --certificate proof.pem`,
		Args:    exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			proof, err := o.readCA(file)
			if err != nil {
				return err
			}
			client, err := o.admin()
			if err != nil {
				return err
			}
			verified, err := client.VerifyCACertificate(c.Context(), args[0], proof.Raw, "")
			if err != nil {
				return explainCA(err, args[0])
			}
			return o.showCA(verified)
		},
	}
	certificateFlag(c, &file, "PEM `file` with the certificate that the CA signed")
	return c
}

func newCARemove(o *operator) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "remove NAME",
		Short: "Remove a CA certificate",
		Long: `Remove a CA certificate. The groups that name it stay, and let nobody in through it
any more: that is how a CA is revoked, and it takes --force. Devices that are at a hub
already stay there.`,
		Example: `  berth ca remove plant
  berth ca remove old-plant --force`,
		Args: exactly("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := o.admin()
			if err != nil {
				return err
			}
			kept, err := client.CACertificate(c.Context(), args[0])
			if err != nil {
				return explainCA(err, args[0])
			}
			if groups := kept.Properties.EnrollmentGroups; len(groups) > 0 && !force {
				return fmt.Errorf("%s lets devices in through %s, and none any more once it is removed\nTo revoke it:\n  berth ca remove %s --force",
					kept.Name, strings.Join(groups, ", "), kept.Name)
			}
			removed, err := client.DeleteCACertificate(c.Context(), args[0], kept.ETag)
			if err != nil {
				return explainCA(err, args[0])
			}
			if o.json() {
				return o.printJSON(removed)
			}
			if groups := through(removed); groups != "" {
				return o.done("removed %s; it lets nobody in%s any more", removed.Name, groups)
			}
			return o.done("removed %s", removed.Name)
		},
	}
	c.Flags().BoolVar(&force, "force", false, "also where groups name it, which let nobody in through it any more")
	return c
}

func certificateFlag(c *cobra.Command, file *string, usage string) {
	c.Flags().StringVar(file, "certificate", "", usage)
}

// readCA reads the one certificate of --certificate.
func (t *terminal) readCA(file string) (*x509.Certificate, error) {
	if file == "" {
		return nil, usageError{errors.New("which certificate? Name its file with --certificate")}
	}
	chain, err := t.readCertificates("--certificate", file)
	if err != nil {
		return nil, err
	}
	if len(chain) > 1 {
		return nil, fmt.Errorf("--certificate: %s has %d certificates; a name is for one", file, len(chain))
	}
	return chain[0], nil
}

// readIssuer reads a CA with its key, which must belong together.
func (t *terminal) readIssuer(file, keyFile string) (*pki.Issuer, error) {
	certificate, err := t.readCA(file)
	if err != nil {
		return nil, err
	}
	if keyFile == "" {
		return nil, usageError{errors.New("which key? Name the file of the CA's private key with --key, or see berth ca code --help")}
	}
	text, err := t.read(keyFile)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	key, err := pki.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("--key: %s: %w", keyFile, err)
	}
	if public, ok := certificate.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return nil, fmt.Errorf("--key: %s is not the key of %q", keyFile, certificate.Subject)
	}
	return &pki.Issuer{Certificate: certificate, Key: key}, nil
}

// showCA shows a CA certificate.
func (t *terminal) showCA(c *dpsjson.CACertificate) error {
	if t.json() {
		return t.printJSON(c)
	}
	p := c.Properties
	rows := [][]string{
		{"Name", c.Name},
		{"Subject", printable(p.Subject)},
		{"SHA-256", p.SHA256Thumbprint},
		{"Expires", moment(dpsjson.Time(p.Expiry))},
		{"Verified", yesNo(p.IsVerified)},
	}
	if p.VerificationCode != "" {
		rows = append(rows, []string{"Verification code", p.VerificationCode})
	}
	if len(p.EnrollmentGroups) > 0 {
		rows = append(rows, []string{"Groups", strings.Join(p.EnrollmentGroups, ", ")})
	}
	return t.table(append(rows, []string{"Created", moment(dpsjson.Time(p.Created))}, []string{"Updated", moment(dpsjson.Time(p.Updated))}, []string{"ETag", c.ETag}))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// explainCA says what to do about a refusal.
func explainCA(err error, name string) error {
	refused, ok := errors.AsType[*client.Error](err)
	if !ok {
		return err
	}
	switch refused.Status {
	case http.StatusNotFound:
		return fmt.Errorf("%w\nSee what there is:\n  berth ca list", err)
	case http.StatusConflict:
		return fmt.Errorf("%w\nTo put another certificate in its place:\n  berth ca add %s --certificate FILE --replace", err, name)
	}
	return err
}
