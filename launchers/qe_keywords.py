"""Names of the input keys of pw.x and ph.x, for finding misspelt ones.

Sources: https://www.quantum-espresso.org/Doc/INPUT_PW.html, INPUT_CP.html (pw.x reads the same
namelists) and INPUT_PH.html, all releases.
"""

from __future__ import annotations

# ruff: noqa: SIM905  a list of quoted names would be three times as long
KEYWORDS: dict[str, frozenset[str]] = {
    "control": frozenset("""
        block calculation dipfield disk_io dt ekin_conv_thr etot_conv_thr forc_conv_thr gate
        gdir iprint isave lberry lelfield lfcp lfcpopt lkpoint_dir lorbm max_seconds memory
        monopole nberrycyc ndr ndw nppstr nprnt nstep outdir point_label_type prefix pseudo_dir
        refg relaxz restart_mode saverho tefield title tprnfor tqr trism tstress twochem
        verbosity wf_collect wfcdir zgate
        """.split()),
    "system": frozenset("""
        a a_pen ace alpha_pen angle1 angle2 assume_isolated b backall block block_1 block_2
        block_height c celldm constrained_magnetization cosab cosac cosbc degauss degauss_cond
        dftd3_threebody dftd3_version dmft dmft_prefix do_ee eamp ecfixed ecutcoarse ecutfock
        ecutrho ecutvcut ecutwfc edir emaxpos ensemble_energies eopreg esm_bc esm_efield
        esm_nfit esm_w exx_fraction exxdiv_treatment fcp_mu fixed_magnetization force_pairing
        force_symmorphic gcscf_beta gcscf_conv_thr gcscf_mu hub_pot_fix hubbard_alpha
        hubbard_beta hubbard_j hubbard_j0 hubbard_occ hubbard_u hubbard_v ibrav input_dft la2f
        lambda lda_plus_u lda_plus_u_kind lda_plus_u_nspin lforcet lgcscf localization_thr
        london london_c6 london_rcut london_rvdw london_s6 lspinorb mbd_vdw multiplicity nat
        nbnd nbnd_cond neldw nelec_cond nelup nextffield no_t_rev noinv noncolin nosym nosym_evc
        nqx1 nqx2 nqx3 nr1 nr1b nr1s nr2 nr2b nr2s nr3 nr3b nr3s nspin ntyp occupations
        one_atom_occupations origin_choice pol_type q2sigma qcutz relaxz report reserv
        reserv_back rhombohedral scdm sci_cb sci_vb screening_parameter sic sic_alpha sic_energy
        sic_epsilon sic_gamma sigma_pen smearing space_group spline_ps starting_charge
        starting_magnetization starting_ns_eigenvalue starting_spin_angle step_pen tfcp
        tot_charge tot_magnetization ts_vdw ts_vdw_econv_thr ts_vdw_isolated u_projection_type
        uniqueb use_all_frac use_freezing_core vdw_corr x_gamma_extrapolation xdm xdm_a1 xdm_a2
        zgate
        """.split()),
    "electrons": frozenset("""
        adaptive_thr ampre conv_thr conv_thr_init conv_thr_multi diago_cg_maxiter
        diago_david_ndim diago_full_acc diago_gs_nblock diago_ppcg_maxiter diago_rmm_conv
        diago_rmm_ndim diago_thr_init diagonalization diis_size dt_emin efield efield2
        efield_cart efield_phase ekincw electron_damping electron_damping_emin electron_dynamics
        electron_maxstep electron_temperature electron_velocities emass emass_cutoff
        emass_cutoff_emin emass_emin epol epol2 etresh exx_maxstep fnosee grease lambda_cold
        maxiter mixing_beta mixing_charge_compensation mixing_fixed_ns mixing_mode mixing_ndim
        n_inner niter_cg_restart niter_cold_restart occupation_constraints ortho_eps ortho_max
        ortho_para orthogonalization passop pre_state real_space scf_must_converge startingpot
        startingwfc tbeta_smoothing tcg tq_smoothing tqr wf_friction wfdd
        """.split()),
    "ions": frozenset("""
        ampr amprand amprp bfgs_ndim delta_t eq_nstep fcp_mass fcp_tempw fe_nstep fe_step
        fire_alpha_init fire_dtmax fire_f_dec fire_f_inc fire_falpha fire_nmin fnhscl fnosep
        greasp iesr ion_damping ion_dynamics ion_maxstep ion_nstepe ion_positions ion_radius
        ion_temperature ion_velocities ndega nhgrp nhpcl nhptyp nraise num_of_images
        pot_extrapolation refold_pos remove_rigid_rot sw_nstep tempw tgdiis_step tolp tranp
        trust_radius_ini trust_radius_max trust_radius_min upscale w_1 w_2 wfc_extrapolation
        """.split()),
    "cell": frozenset("""
        cell_damping cell_dofree cell_dynamics cell_factor cell_maxstep cell_nstepe
        cell_parameters cell_temperature cell_velocities fnoseh greash press press_conv_thr
        temph treinit_gvecs wmass
        """.split()),
    "fcp": frozenset("""
        fcp_conv_thr fcp_delta_t fcp_dynamics fcp_mass fcp_mu fcp_ndiis fcp_nraise
        fcp_temperature fcp_tempw fcp_tolp fcp_velocity freeze_all_atoms
        """.split()),
    "rism": frozenset("""
        closure ecutsolv laue_both_hands laue_buffer_left laue_buffer_right laue_expand_left
        laue_expand_right laue_nfit laue_starting_left laue_starting_right laue_wall
        laue_wall_epsilon laue_wall_lj6 laue_wall_rho laue_wall_sigma laue_wall_z mdiis1d_size
        mdiis1d_step mdiis3d_size mdiis3d_step nsolv rism1d_bond_width rism1d_conv_thr
        rism1d_dielectric rism1d_maxstep rism1d_molesize rism1d_nproc rism3d_conv_level
        rism3d_conv_thr rism3d_maxstep rism3d_planar_average smear1d smear3d solute_epsilon
        solute_lj solute_sigma starting1d starting3d tempv
        """.split()),
    "inputph": frozenset("""
        ahc_dir ahc_nbnd ahc_nbndskip ahc_win_max ahc_win_min alpha_mix amass asr dek dftd3_hess
        diagonalization do_charge_neutral do_long_range drho_star dvscf_star dvscf_star%
        el_ph_nsigma el_ph_sigma electron_phonon elop elph_ahc_ks elph_nbnd_max elph_nbnd_min
        epsil eth_ns eth_rps fildrho fildvscf fildyn fpol k1 k2 k3 kx ky kz last_irr last_q
        ldiag ldisp ldvscf_interpolate lnoloc low_directory_check lqdir lraman lrpa lshift_q
        max_seconds modenum nat_todo niter_ph nk1 nk2 nk3 nmix_ph nogg nq1 nq2 nq3
        nscf_majority_vote only_init only_wfc outdir prefix q2d q_in_band_form qplot
        read_dns_bare recover reduce_io search_sym shift_q skip_upperfan start_irr start_q
        tr2_ph trans verbosity wan_index_outer wpot_dir zasr zeu zue
        """.split()),
}
