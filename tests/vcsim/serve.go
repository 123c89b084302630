package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"

	_ "github.com/vmware/govmomi/vapi/simulator" // tags, over REST
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// serveStock readies govmomi's simulator behind ours: its own listener is closed, one session is kept.
func (w *world) serveStock() error {
	w.service.RegisterEndpoints = true
	w.service.RegisterSDK(w.servePolicies())
	w.service.RegisterSDK(w.serveVsan())
	w.service.Listen = &url.URL{Host: "127.0.0.1:0"}
	server := w.service.NewServer()
	server.Close()
	request := types.Login{
		This: ref{Type: "SessionManager", Value: "SessionManager"}, UserName: "stock", Password: "stock",
	}
	body := append([]byte(envelope), marshalAs(request, xml.Name{Space: "urn:" + vim25.Namespace, Local: "Login"})...)
	body = append(body, []byte(`</soapenv:Body></soapenv:Envelope>`)...)
	out := httptest.NewRecorder()
	w.service.ServeMux.ServeHTTP(out, httptest.NewRequest(http.MethodPost, vim25.Path, bytes.NewReader(body)))
	cookies := out.Result().Cookies()
	if len(cookies) != 1 {
		return errors.New("govmomi's simulator gave no session: " + out.Body.String())
	}
	w.stockCookie = cookies[0]
	return nil
}

// certificates makes an authority of this run's own and one certificate under it.
func certificates(address string) (tls.Certificate, []byte, error) {
	none := tls.Certificate{}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return none, nil, err
	}
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vcsim CA"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(240 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	signed, err := x509.CreateCertificate(rand.Reader, authority, authority, &key.PublicKey, key)
	if err != nil {
		return none, nil, err
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return none, nil, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "vcsim"}, NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost", "vcenter.test"}, IPAddresses: []net.IP{net.ParseIP(address), net.IPv4(127, 0, 0, 1)},
	}
	parent, err := x509.ParseCertificate(signed)
	if err != nil {
		return none, nil, err
	}
	cert, err := x509.CreateCertificate(rand.Reader, leaf, parent, &own.PublicKey, key)
	if err != nil {
		return none, nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})
	return tls.Certificate{Certificate: [][]byte{cert, signed}, PrivateKey: own}, text, nil
}

// front is the listening socket; it can be shut and opened again on the same port, as by a restart of vCenter.
type front struct {
	world    *world
	identity tls.Certificate
	address  string
	port     int
	server   *http.Server
}

func (f *front) open() error {
	var listener net.Listener
	var err error
	for try := 0; try < 100; try++ {
		if listener, err = net.Listen("tcp", f.address); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	f.port = listener.Addr().(*net.TCPAddr).Port
	host, _, _ := net.SplitHostPort(f.address)
	f.address = fmt.Sprintf("%s:%d", host, f.port)
	f.server = &http.Server{
		Handler: f.world, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{f.identity}, MinVersion: tls.VersionTLS12},
		ErrorLog:  quiet,
	}
	go func() { _ = f.server.ServeTLS(listener, "", "") }()
	return nil
}

func (f *front) shut() { _ = f.server.Close() }
