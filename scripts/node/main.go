// Command kubernetes is every part of a Kubernetes node in one program: `kubernetes PART [FLAGS]`. Two parts are ours: a
// store that does not wait for the disk, and the volumes of a node.
//
// It exists because building each part on its own would link most of the same packages eight times. The versions of
// all parts, and those of the programs that go.mod names as tools, are pinned in go.mod.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/restclient"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

var parts = map[string]func() *cobra.Command{
	"etcd":                    etcd,
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": manager.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kube-proxy":              proxy.NewProxyCommand,
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"volumes":                 volumes,
}

func main() {
	if len(os.Args) < 2 || parts[os.Args[1]] == nil {
		names := make([]string, 0, len(parts))
		for name := range parts {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintf(os.Stderr, "usage: kubernetes PART [FLAGS], where PART is one of %s\n", strings.Join(names, ", "))
		os.Exit(2)
	}
	part := os.Args[1]
	os.Args = append([]string{part}, os.Args[2:]...)
	os.Exit(cli.Run(parts[part]()))
}

// etcd is the store of a cluster that may be thrown away: it does not wait for the disk.
func etcd() *cobra.Command {
	var folder string
	command := &cobra.Command{
		Use:  "etcd",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			config := embed.NewConfig()
			config.Dir, config.LogLevel, config.UnsafeNoFsync = folder, "error", true
			clients, peers := []url.URL{{Scheme: "http", Host: "127.0.0.1:2379"}}, []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
			config.ListenClientUrls, config.AdvertiseClientUrls = clients, clients
			config.ListenPeerUrls, config.AdvertisePeerUrls = peers, peers
			config.InitialCluster = config.InitialClusterFromName(config.Name)
			server, err := embed.StartEtcd(config)
			if err != nil {
				return err
			}
			return <-server.Err()
		},
	}
	command.Flags().StringVar(&folder, "data-dir", "", "where the store keeps its files")
	_ = command.MarkFlagRequired("data-dir")
	return command
}
