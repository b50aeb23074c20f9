"""Flags of other programs (GCTA, BOLT-LMM, regenie, PLINK, LDAK, MPH, GEMMA, FaST-LMM), and what does it here.

A line of advice, and under it the flags that it answers; * stands for any ending.  A flag without a program before it
is one of all five commands.
Sources: the programs' manuals.
"""

_TABLE = """
give --bfile, the path that .bed, .bim and .fam share
    --bim --fam --bfileSim -bfileSim -file -tfile -g -a
give --pfile, the path that .pgen, .pvar and .psam share
    --pvar --psam --bpfile
make a fileset of it: plink2 --make-bed --bfile, then --bfile
    --bfilegz
make a fileset of it by plink2 --make-bed or plink 1.9 --make-bed, then --bfile
    --file --ped --map --tfile --tped --tfam --lfile --23file --gen --data --haps --legend --import-dosage --dosage-mach
    --dosage-mach-gz --speed --sp -dfile --impute2* --dosage2* --dosageF*
gpu-reml --bgen FILE --sample FILE; several files: merge them, or plink2 --make-pgen and gpu-reml --pfile-list
    --bgenFile --sampleFile --bgenSampleFileList --mbgen --bgi
gpu-reml --pfile-list FILE
    --mpfile
give --bfile
    --binary_genotype --bfile1 --genotype --geno-file
not needed: A1 (column 5 of the .bim; ALT of a .pvar) is counted, and which allele that is does not change h2
    --keep-allele-order --real-ref-alleles --a1-allele --a2-allele --ref-allele --alt-allele
    --update-ref-allele
edit the files by plink2 --make-bed first
    --set-missing-var-ids --set-all-var-ids --new-id-max-allele-len --flip --rm-dup --bmerge --pmerge --pmerge-list
    --merge-list --split-x --split-par --merge-x --const-fid --double-id --id-delim --impute-sex --zero-cluster
    --set-hh-missing --update-*
this writes no genotypes: plink2 --make-bed, --make-pgen or --export do
    --make-bed --make-pgen --make-bpgen --make-just-bim --make-just-fam --recode --recode-nomiss --recode-std --export
    --write-snplist --write-samples
this program fits models; plink2 has summaries and checks of genotypes
    --freq --ssq --missing --hardy --het --ibc --check-sex --genome --make-king --make-king-table --homozyg
    --sample-counts --geno-counts --validate --fst --mds-plot --cluster --test-missing --r2* --r --blocks* --ld --ld-sig
give --keep
    --keep-fam --keep-cluster --keep-clusters --keep-sample
give --remove
    --remove-fam --remove-cluster --remove-clusters --exclude-sample
make the list of samples first (awk, plink2), then --keep or --remove
    --keep-if --remove-if --filter --filter-males --filter-females --filter-cases --filter-controls --keep-males
    --keep-females --keep-founders --filter-founders --keep-nonfounders --mac-filter
not needed: all analysed samples count, founders or not
    --nonfounders
not needed: sex is not used
    --allow-no-sex --must-have-sex --no-sex --allowX --allow-X --dosage-compensation
chromosomes are human; others are analysed by the names in the files: gpu-reml --chr 1,2
    --chr-set --autosome-num --autosome-xy --cow --dog --horse --mouse --rice --sheep --human --allow-extra-chr
    --Nautosomes --nauto --output-chr
gpu-reml --chr 1-4,22 lists those wanted
    --not-chr
gpu-reml --extract FILE
    --extract-snp --extract-or --extract-intersect --snp --snps -snps -extract -extractSim -ksnps --snp_info
    --snp-info
gpu-reml --exclude FILE
    --exclude-snp --exclude-snps --exclude-or -excludeByPosition
gpu-reml --chr C --from-bp A --to-bp B
    --range --from --to --from-kb --to-kb --from-mb --to-mb --window --extract-region-bp --extract-region-snp
    --exclude-region-bp --exclude-region-snp --bed-border-kb
gpu-reml --geno X
    --missing-rate -miss --max-missing --min-call
gpu-reml --maf X (a count of alleles is 2n X)
    --min-maf --min_maf --minMAF --bgenMinMAF --mac --minMAC --max-mac --maf-min
gpu-reml --max-maf X
    --max_maf
gpu-reml --hwe P
    --min_hwe_pval --hwe-p
filter by imputation quality first (plink2 --mach-r2-filter), then gpu-reml --extract FILE
    --info --imput-rsq --update-imput-rsq --minINFO --bgenMinINFO --mach-r2-filter --minimac3-r2-filter --min-info
    --var-min-qual -r2 -notsnp
not here: plink2 --indep-pairwise makes a list, which gpu-reml --extract takes
    --indep --indep-pairwise --indep-pairphase --prune --thin --thin-count --window-prune --clump --window-cm
    --window-kb --cut-weights --calc-weights --calc-weights-all --snps-only --max-alleles --min-alleles
gpu-reml --grm-cutoff X, by relationships of the genotypes
    --grm-singleton --king-cutoff --king-cutoff-table --max-rel --unrelated --filter-rel
gpu-reml --dosage takes dosages, without it calls
    --hard-call-threshold --hardcall-thresh --dosage-erase-threshold --import-dosage-certainty
give --pheno
    --phenotype -p --tpheno-file
give --pheno-name
    --trait --trait-name --pheno-column
give --mpheno
    --pheno-col-nums --tpheno-indexCol -n
gpu-reml --pheno-name all
    --all-pheno --multi-pheno
give --qcovar for numbers, --covar for categories
    --covariate_file -covar -c --covariates
gpu-reml --qcovar-name NAME,NAME
    --covar-number --covar-col-nums --covariate_names --covar-names
    --covar-numbers --covarExcludeList --parameters --condition-list --condition
give --covar
    --factors --categorical
not needed: covariates may have any mean, SD and number of levels
    --covar-variance-standardize --variance-standardize --covarUseMissingIndic
gpu-reml --rint before or gpu-reml --rint after
    --apply-rerint --apply-rerint-cov --quantile-normalize --pheno-quantile-normalize
    --covar-quantile-normalize --transform
not needed: NA, nan, -9 and empty are missing
    --missing-phenotype --input-missing-phenotype --missing-code -missingPhenotype
not needed: a disease may be coded by any two numbers
    --1 --cc12
gpu-reml --pca K writes principal components, gpu-reml --pca-covar K takes them as covariates
    --pc --pc-loadings --project-loading --calc-pca-loads --decompose --pca-*
gpu-reml --mgrm FILE lists matrices, --grm A,B names them
    --grm-list --grm_list --multi-grm --kinship --kins -mk
gpu-reml --grm PREFIX
    --sparse-grm -k -sim --grm_file --adjust-grm
gpu-reml --make-grm
    --make-grm-gz --make-grm-d-gz
    --make-grm-part --make-grm-list --make_grm --compute_grm --calc-kins --calc-kins-direct --make-rel
    -gk --make-grm-sparse --make-kin -simOut
gpu-reml --dominance
    --make-grm-d --make-grm-d-bin --grm-d --dom --dominance-grm
gpu-reml --grm takes several matrices and --make-grm adds variants; there is no editing of matrices
    --grm-adj --dc --unify-grm --make-bK --make-bK-sparse --merge_grms --deduct_grms --join-kins --add-grm --sub-grm
gpu-reml --by-chromosome X makes it a component, gpu-reml --xchr-model N says how males count there
    --make-grm-xchr
gpu-reml --standardize binomial scales by sqrt(2p(1-p)), the default by the SD
    --make-grm-alg --standardise --standard
no matrix is stored, so nothing is loaded or inverted: leave it out
    --save_memory --load-inv --save-inv --memory --memory-save --split-l0 --run-l0 --run-l1
    --keep-l0 -eigen -eigenOut -d -u --eigen --no-map-check --noMapCheck --make-grm-xchr-part
gpu-reml always fits REML: leave it out
    --minque -vc -REML -ML
gpu-reml --max-iterations N
    --maxIters --num_iterations --max-iter --niter --maxit
gpu-reml --max-probes N
    --h2EstMCtrials --num_random_vectors --num-random-vectors --num-vectors --num-probes
gpu-reml --method he
    --he --fast-he --he-reg
gpu-reml --reml-bivar has both tests, of rg = 0 and |rg| = 1, and residual covariances of people with both: leave it out
    --reml-bivar-lrt-rg --reml-bivar-nocove --reml-bivar-no-constrain --reml-bivar-prevalence
gpu-reml --rg has genetic covariances by REML, not by moments
    --bivar --HEreg-bivar*
variances of components are bounded at 0, unless gpu-reml --no-constrain is given
    --constrain
not here: variances are always estimated, from starts of their own
    --reml-fixed-var --h2gGuess --remlGuessStr --remlNoRefine --start-values --reml-priors*
gpu-reml --compute-effects
    --blup-snp --calc-blups --predBetasFile --bvsr --cvblup -ebv
not here: a matrix that is not positive semidefinite, or a fit that does not converge, is said so
    --reml-bendV --reml-force-inv --reml-force-converge --reml-allow-no-converge --reml-diag-one --tolerance
gpu-reml --residual-weights FILE
    --reml-res-diag --error_weight_name --error_variance_weight_name --weight-file -widv
gpu-reml --residual-groups FILE
    --reml-wfam
gpu-reml --prevalence K
    --k --population-prevalence
gpu-reml --gxe FILE
    --envir --interaction --gxe-file --environment
gpu-reml --maf-bins X,X --ld-bins K makes the bins itself; gpu-reml --ld-scores FILE takes scores
    --LDscores* --ld-wind* --ld-rsq* --ld-score*
gpu-reml --alpha A weighs variants by allele frequency, gpu-reml --component-table FILE by a table
    --power --weights --ignore-weights --snp_weighting_column --snp_weight --snp-weights -weight
gpu-reml --component-spec, --snp-lists, --annot or --by-chromosome make several components
    --partition-number --partition-prefix --partition-length --region-number --region-prefix --regions --vcFile
    --snp_sets --annotation-number --annotation-prefix -cat
not here: needs each sample's genotypes; ldsc and LDAK (SumHer) take summary statistics
    --sumstats --h2 --ref-ld-chr --w-ld-chr --ref-ld --w-ld --summary --tagfile --sum-hers --sum-cors --mega-prs
    --ind-hers --mbfile-ld --beta-file --cojo-* --gsmr-* --mtcojo-* --sbayes* --calc-tagging --smr*
not here: no tests of genes or sets of rare variants; regenie --anno-file and gcta64 --fastBAT have them
    --acat --gene-list --set-list --mBAT-combo --anno-file --build-mask --joint --extract-sets --exclude-sets
    --calc-genes-reml --join-genes-reml --cut-genes --fastBAT* --vc-* --aaf-* --mask-* --write-mask* --sbat*
this simulates nothing; gcta64 --simu-qt or LDAK --make-phenos do
    --make-phenos --make-snps --simulate --dummy --simu-* --simulate-*
gpu-reml-gwas
    --fastGWA-lr -lm -linreg --lr --ols --gwas
gpu-reml-gwas --model lmm
    -lmm --mlma-*
gpu-reml-gwas --model loco
    --mlma-subtract-grm --leave-one-chr-out --LOCO --loco -loco --bolt --kvik -runGwasType --fastGWA*
    --mlma-loco* --lmm*
not here: traits are quantitative; regenie --bt, SAIGE or plink2 --glm test a disease by logistic regression
    --bt --approx --spa --fastGWA-mlm-binary --af-cc --minCaseCount --pThresh --t2e --eventColList --write-null-firth
    --use-null-firth --compute-all --model-only --force-qt --htp --firth* --logistic*
not needed: there is one step, and its blocks follow from the memory there is
    --block-size --l0 --l1 --strict --cvFoldsSplit --cvFoldsCompute --cvNoEarlyExit --pEst
    --varFrac2Est --ignore-pred --numLeaveOutChunks --numJobs -numJobs -thisJob --chunk-length
    --subset-number
give --out
    --output --output_file --output-file --prefix -o -out -outdir --out-dir --outdir --statsFile*
gpu-reml-gwas tests additive effects of single variants
    --test --mperm --perm --domRecHetTest --epistasis --fast-epistasis --interaction-snp --condition-file --joint-covar
    --hide-covar --adjust --fisher --regress
not here: Bayesian mixtures of effects; gpu-reml-sparse has large effects and a polygenic rest
    -bslmm --bayesr --bayes --elastic --ridge --lasso --sbayes --bslmm --bayesC --bayesS
gpu-reml-predict takes what gpu-reml --save-model writes; plink2 --score what gpu-reml --compute-effects writes
    --score --score-list --score-col-nums --q-score-range --predict -predict --pred-file --calc-scores --scorefile
    --print-prs --use-prs --epm -epm -emu -scorefile
give --threads
    --num_threads --maxThreads -maxThreads --threads-num --n-threads
    --nt -t --ncpu --cores --parallel
gpu-reml --device cuda
    --cuda --use-gpu --use_gpu
gpu-reml --num-gpus N
    --n-gpus --ngpus --gpus
gpu-reml --gpu-budget-gib GIB
    --gpu-memory --gpu-mem --gpu-budget
gpu-reml --max-iterations, --mc-target and --max-probes set the accuracy of a fit
    --CGtol --approxTol --tol --precision -lmin -lmax -region -brentStarts -logDelta
give --quiet
    --silent --silence -silence --no-verbose -q
gpu-reml --verbose
    --verboseStats -verboseOutput --debug -v --log-detail
not needed: settings are flags; there is no file of settings
    --config --script --rerun --options
the command says what runs: gpu-reml, gpu-reml-sparse, gpu-reml-gwas
    --mode
leave it out
    --log-label --python-bin
not needed: no genetic map is used
    --genetic-map --cm-map
gpu-reml-gwas --gz compresses the table
    --gzip --zip --bgz --write-gz
"""


def flags_elsewhere() -> dict[str, str]:
    """Flag -> advice; a flag that ends in * stands for all that begin so."""
    advice, found = "", {}
    for line in _TABLE.strip().splitlines():
        if line.startswith(" "):
            found.update(dict.fromkeys(line.split(), advice))
        else:
            advice = line
    return found


ELSEWHERE = flags_elsewhere()
CONVERTED = ("--vcf", "--bcf")  # plink2's own words for what it makes a fileset of


def command_for(flag: str, path: str) -> str:
    """The one line that makes a fileset of what a flag names."""
    stem = path
    for ending in (".gz", ".bgz", ".vcf", ".bcf"):
        stem = stem.removesuffix(ending)
    made = f"plink2 {flag} {path} --make-pgen --out {stem}"
    return f"make a fileset of it by {made}, then give --pfile {stem} (--dosage reads dosages)"


_BEGINNINGS = sorted((flag[:-1] for flag in ELSEWHERE if flag.endswith("*")), key=len, reverse=True)


def advice_on(flag: str) -> str:
    """What to give in place of a flag of another program; empty where the flag is none that is known."""
    if flag in ELSEWHERE:
        return ELSEWHERE[flag]
    beginning = next((start for start in _BEGINNINGS if flag.startswith(start)), None)
    return "" if beginning is None else ELSEWHERE[f"{beginning}*"]
