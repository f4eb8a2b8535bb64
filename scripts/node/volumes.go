package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// provisionerName is what the storage class of scripts/node/cluster.yaml names.
const provisionerName = "sem-image-classifier/folders"

// volumes makes a folder for each claim, and deletes it with its volume. All nodes see the folders, as they would see
// the volumes of a cloud.
func volumes() *cobra.Command {
	var folder, kubeconfig string
	command := &cobra.Command{
		Use:  "volumes",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			one := controller.LeaderElection(false)
			controller.NewProvisionController(command.Context(), client, provisionerName, folders(folder), one).Run(command.Context())
			return nil
		},
	}
	command.Flags().StringVar(&folder, "folder", "", "where the folders are made")
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how the cluster is reached")
	_ = command.MarkFlagRequired("folder")
	_ = command.MarkFlagRequired("kubeconfig")
	return command
}

type folders string

// Provision makes the folder of a volume.
func (all folders) Provision(_ context.Context, options controller.ProvisionOptions) (*core.PersistentVolume, controller.ProvisioningState, error) {
	claim := options.PVC
	path := filepath.Join(string(all), fmt.Sprintf("%s-%s-%s", claim.Namespace, claim.Name, options.PVName))
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	// A local volume, for kubelet tells how full it is and gives it to the pod's group. Every node takes it.
	anywhere := core.NodeSelectorRequirement{Key: core.LabelOSStable, Operator: core.NodeSelectorOpIn, Values: []string{"linux"}}
	terms := []core.NodeSelectorTerm{{MatchExpressions: []core.NodeSelectorRequirement{anywhere}}}
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: options.PVName},
		Spec: core.PersistentVolumeSpec{
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Spec.Resources.Requests[core.ResourceStorage]},
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			PersistentVolumeSource:        core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			NodeAffinity:                  &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: terms}},
		},
	}, controller.ProvisioningFinished, nil
}

// Delete removes the folder with all that is in it.
func (folders) Delete(_ context.Context, volume *core.PersistentVolume) error {
	return os.RemoveAll(volume.Spec.Local.Path)
}
