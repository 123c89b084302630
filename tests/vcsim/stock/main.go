// Command stock is govmomi's vCenter simulator as it is, but for the API version: what our own simulator makes of the
// same library is for us to judge, what this one does is not. It prints one line of JSON when it listens, and ends when
// its standard input is closed. Its argument is the number of machines that it has; without one it has 1.
package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"io/ioutil"
	"log"
	"os"
	"strconv"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

func main() {
	log.SetOutput(ioutil.Discard)
	model := simulator.VPX()
	model.Host, model.ClusterHost, model.Machine, model.Autostart = 0, 2, 1, false
	if len(os.Args) > 1 {
		model.Machine, _ = strconv.Atoi(os.Args[1])
	}
	if err := model.Create(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	self := types.ManagedObjectReference{Type: "ServiceInstance", Value: "ServiceInstance"}
	simulator.Map.Get(self).(*simulator.ServiceInstance).Content.About.ApiVersion = "7.0.3.0"
	model.Service.TLS = new(tls.Config)
	server := model.Service.NewServer()
	line, _ := json.Marshal(map[string]string{"port": server.URL.Port()})
	fmt.Println(string(line))
	_, _ = io.Copy(ioutil.Discard, os.Stdin)
	model.Remove() // and no server.Close, which waits for clients that wait for updates
}
