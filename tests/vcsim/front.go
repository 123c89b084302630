package main

import (
	"bytes"
	"context"
	"fmt"
	"io/ioutil"
	"log"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// ref is what the vSphere API calls a managed object reference.
type ref = types.ManagedObjectReference

// call is one SOAP request on its way through the simulator.
type call struct {
	context context.Context
	world   *world
	method  string
	this    ref
	body    interface{}
	session *session
	writer  http.ResponseWriter
	// taskFault ends the task that this call starts, before it takes effect or (late) after it did.
	taskFault types.BaseMethodFault
	taskLate  bool
}

// answer is what a handler returns: a body of govmomi's kind, or the inner XML of a response written by hand.
type answer struct {
	body soap.HasFault
	raw  []byte
}

func fault(detail types.BaseMethodFault) answer { return faultText("", detail) }

func faultText(text string, detail types.BaseMethodFault) answer {
	if text == "" {
		text = reflect.TypeOf(detail).Elem().Name()
	}
	return answer{body: &faultBody{simulator.Fault(text, detail)}}
}

func notFound(object ref) answer {
	return faultText(
		fmt.Sprintf("The object '%s:%s' has already been deleted or has not been completely created", object.Type, object.Value),
		&types.ManagedObjectNotFound{Obj: object},
	)
}

type faultBody struct{ reason *soap.Fault }

func (b *faultBody) Fault() *soap.Fault { return b.reason }

type faultDetail struct{ fault types.AnyType }

// MarshalXML names the element after the fault's type, as vCenter does.
func (d *faultDetail) MarshalXML(encoder *xml.Encoder, start xml.StartElement) error {
	kind := reflect.TypeOf(d.fault).Elem().Name()
	start.Name.Local = kind + "Fault"
	start.Attr = append(start.Attr,
		xml.Attr{Name: xml.Name{Local: "xmlns"}, Value: "urn:" + vim25.Namespace},
		xml.Attr{Name: xml.Name{Local: "xsi:type"}, Value: kind})
	return encoder.EncodeElement(d.fault, start)
}

type faultXML struct {
	XMLName xml.Name `xml:"soapenv:Fault"`
	Code    string   `xml:"faultcode"`
	String  string   `xml:"faultstring"`
	Detail  struct {
		Fault *faultDetail
	} `xml:"detail"`
}

const envelope = xml.Header + `<soapenv:Envelope xmlns:soapenc="http://schemas.xmlsoap.org/soap/encoding/"` +
	` xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema"` +
	` xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>`

func (c *call) encode(a answer) (int, []byte) {
	var out bytes.Buffer
	out.WriteString(envelope)
	status := http.StatusOK
	switch {
	case a.raw != nil:
		fmt.Fprintf(&out, `<%sResponse xmlns="urn:%s">`, c.method, vim25.Namespace)
		out.Write(a.raw)
		fmt.Fprintf(&out, `</%sResponse>`, c.method)
	case a.body.Fault() != nil:
		status = http.StatusInternalServerError
		reason := a.body.Fault()
		text := &faultXML{Code: reason.Code, String: reason.String}
		text.Detail.Fault = &faultDetail{reason.Detail.Fault}
		out.Write(marshal(text))
	default:
		value := reflect.ValueOf(a.body).Elem().FieldByName("Res")
		out.Write(marshalAs(value.Interface(), xml.Name{Space: "urn:" + vim25.Namespace, Local: value.Elem().Type().Name()}))
	}
	out.WriteString(`</soapenv:Body></soapenv:Envelope>`)
	return status, out.Bytes()
}

func marshal(value interface{}) []byte {
	text, err := xml.Marshal(value)
	if err != nil {
		log.Panicf("cannot encode %T: %s", value, err)
	}
	return text
}

func marshalAs(value interface{}, name xml.Name) []byte {
	var out bytes.Buffer
	if err := xml.NewEncoder(&out).EncodeElement(value, xml.StartElement{Name: name}); err != nil {
		log.Panicf("cannot encode %T: %s", value, err)
	}
	return out.Bytes()
}

// typeFunc also finds types that a client names with a namespace prefix.
func typeFunc(name string) (reflect.Type, bool) {
	find := types.TypeFunc()
	kind, ok := find(name)
	if !ok {
		if i := strings.IndexByte(name, ':'); i >= 0 {
			kind, ok = find(name[i+1:])
		}
	}
	return kind, ok
}

// ServeHTTP answers all of vCenter's paths. SOAP calls of the vim25 interface go to our handlers first and to
// govmomi's simulator when there is none; other paths go to the simulator with its own session.
func (w *world) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	defer func() {
		if problem := recover(); problem != nil {
			if problem != http.ErrAbortHandler {
				log.Printf("panic in %s: %v\n%s", request.URL.Path, problem, stack())
			}
			panic(http.ErrAbortHandler)
		}
	}()
	data, err := ioutil.ReadAll(request.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	request.URL.Path = strings.TrimSuffix(request.URL.Path, "/vimService")
	if request.URL.Path == pbmPath+"/sdk" {
		request.URL.Path = pbmPath
	}
	soapPath := request.Method == http.MethodPost &&
		(strings.HasPrefix(request.URL.Path, "/sdk") || request.URL.Path == pbmPath || request.URL.Path == vsanPath)
	if !soapPath {
		if request.URL.Path == "/sdk/vimServiceVersions.xml" {
			fmt.Fprintf(writer, serviceVersions, w.config.APIVersion)
			return
		}
		w.forward(writer, request, data)
		return
	}
	method, err := simulator.UnmarshalBody(w.typesOf(request.URL.Path), data)
	c := &call{context: request.Context(), world: w, writer: writer}
	if err != nil {
		log.Printf("cannot read a request: %s", err)
		c.finish(faultText(err.Error(), &types.InvalidRequest{}))
		return
	}
	c.method, c.this, c.body = method.Name, method.This, method.Body
	w.mu.Lock()
	c.session = w.sessionOf(request)
	w.calls[c.method]++
	injected := w.nextFault(c)
	w.mu.Unlock()

	if injected != nil && !injected.before(c) {
		return
	}
	var status int
	var response []byte
	if strings.HasPrefix(request.URL.Path, "/sdk") {
		status, response = c.serve(request, data)
	} else {
		status, response = c.relay(request, data)
	}
	if injected != nil && !injected.after(c) {
		return
	}
	c.write(status, response)
}

func (c *call) finish(a answer) {
	status, response := c.encode(a)
	c.write(status, response)
}

func (c *call) write(status int, response []byte) {
	c.writer.Header().Set("Content-Type", `text/xml; charset="utf-8"`)
	c.writer.Header().Set("Content-Length", fmt.Sprint(len(response)))
	c.writer.WriteHeader(status)
	if _, err := c.writer.Write(response); err != nil {
		log.Printf("%s: the client went away: %s", c.method, err)
	}
}

func (c *call) serve(request *http.Request, data []byte) (int, []byte) {
	w := c.world
	if wait, ok := waits[c.method]; ok {
		return c.encode(c.guard(wait)) // these take and release the lock themselves
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	handler, ok := handlers[c.method]
	if a := c.permitted(); a != nil && c.session != nil {
		return c.encode(*a)
	}
	if ok {
		if a := c.guard(handler); a.body != nil || a.raw != nil {
			return c.encode(a)
		}
	} else if a := c.allowed(); a != nil {
		return c.encode(*a)
	}
	status, response := c.passOn(request, data)
	c.world.touchMentioned(c.this, c.body)
	return status, response
}

// guard asks for a session before everything but what a client may call without one.
func (c *call) guard(handler func(*call) answer) answer {
	if a := c.allowed(); a != nil {
		return *a
	}
	return handler(c)
}

func (c *call) allowed() *answer {
	switch c.method {
	case "RetrieveServiceContent", "Login", "RetrieveProperties", "RetrievePropertiesEx", "Fetch":
		return nil
	}
	if c.session != nil {
		return nil
	}
	a := faultText("The session is not authenticated.", &types.NotAuthenticated{
		NoPermission: types.NoPermission{Object: c.this, PrivilegeId: "System.View"},
	})
	return &a
}

// refuse keeps calls from govmomi's simulator that would change machines behind our back.
func refuse(*call) answer { return fault(&types.NotSupported{}) }

// relay answers the storage policy and vSAN services, which know their clients by vCenter's session cookie.
func (c *call) relay(request *http.Request, data []byte) (int, []byte) {
	w := c.world
	w.mu.Lock()
	defer w.mu.Unlock()
	session := c.session
	if session == nil {
		session = w.sessionInHeader(data)
	}
	if session == nil && c.method != "PbmRetrieveServiceContent" {
		return c.encode(fault(&types.NotAuthenticated{NoPermission: types.NoPermission{Object: c.this, PrivilegeId: "System.View"}}))
	}
	if a := c.permitted(); a != nil {
		return c.encode(*a)
	}
	status, response := c.passOn(request, data)
	if status != http.StatusOK { // the service's own faults are of its own namespace
		response = bytes.Replace(response, []byte(`Fault xmlns="urn:vim25" xsi:type="Pbm`), []byte(`Fault xmlns="urn:pbm" xsi:type="Pbm`), 1)
	}
	return status, response
}

// passOn lets govmomi's simulator answer a call, with the one session it knows.
func (c *call) passOn(request *http.Request, data []byte) (int, []byte) {
	recorder := c.world.stock(request, data)
	return recorder.status, recorder.body.Bytes()
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header            { return r.header }
func (r *recorder) WriteHeader(status int)         { r.status = status }
func (r *recorder) Write(data []byte) (int, error) { return r.body.Write(data) }
func newRecorder() *recorder                       { return &recorder{header: http.Header{}, status: http.StatusOK} }
func (w *world) typesOf(path string) func(string) (reflect.Type, bool) {
	prefix := map[string]string{pbmPath: "pbm:", vsanPath: "vsan:"}[path]
	if prefix == "" {
		return typeFunc
	}
	return func(name string) (reflect.Type, bool) {
		if kind, ok := types.TypeFunc()(prefix + name); ok {
			return kind, ok
		}
		return typeFunc(name)
	}
}

func (w *world) stock(request *http.Request, data []byte) *recorder {
	inner := request.Clone(context.Background())
	inner.Body = ioutil.NopCloser(bytes.NewReader(data))
	inner.Header.Del("Cookie")
	if w.stockCookie != nil {
		inner.AddCookie(w.stockCookie)
	}
	out := newRecorder()
	w.service.ServeMux.ServeHTTP(out, inner)
	return out
}

// forward serves tags, files and the like: their own sessions are the simulator's business.
func (w *world) forward(writer http.ResponseWriter, request *http.Request, data []byte) {
	request.Body = ioutil.NopCloser(bytes.NewReader(data))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls[request.Method+" "+request.URL.Path]++
	w.service.ServeMux.ServeHTTP(writer, request)
}

const serviceVersions = xml.Header + `<namespaces version="1.0"><namespace><name>urn:vim25</name>` +
	`<version>%s</version><priorVersions><version>6.7.3</version><version>6.7</version><version>6.5</version>` +
	`<version>6.0</version></priorVersions></namespace></namespaces>`

func now() time.Time { return time.Now().UTC() }
